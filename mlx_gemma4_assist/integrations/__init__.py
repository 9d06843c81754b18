"""Where other programs meet this package: settings of apps that talk to the server, launchd, plugins."""
