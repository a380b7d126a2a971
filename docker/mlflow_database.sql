-- MLflow has a database of its own: both it and the ledger keep their schema's version in a table of one name.
CREATE DATABASE mlflow;
