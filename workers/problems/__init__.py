"""Problems: the tasks, data and models that come with the package."""
