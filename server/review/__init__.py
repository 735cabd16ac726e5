"""The review page: the cases and the project in a browser, for those who have no viewer at hand."""
