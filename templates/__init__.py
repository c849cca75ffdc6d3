"""What dsdeploy writes out as text: read with `dsdeploy.resources`."""
