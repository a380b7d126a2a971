"""Problems: the tasks, data and models that the package brings along."""
