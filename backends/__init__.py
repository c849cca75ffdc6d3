"""Engine backends: each subfolder is a plugin, found through the entry points `dsdeploy.backends`."""
