"""How the server behaves with many readers and with many cases: really started, asked over HTTP."""
