"""Floor 3: the web server and the command line. It knows the app only through the host's `app_instance()`."""
