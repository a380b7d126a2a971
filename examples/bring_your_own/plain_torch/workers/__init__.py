"""A folder of yours may have any name: nothing of anon_tune's is shadowed by it."""
