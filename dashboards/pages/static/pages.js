// Small helps for all pages.
"use strict";
