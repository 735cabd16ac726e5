"""The routes of the fixed interface, one module for each concept; sync code runs in the thread pool."""
