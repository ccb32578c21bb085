"""What backup tools print, read: a file for each tool whose answers are many. Pure; adapters alone import them."""
