"""Deployments on machines of one's own: started, watched, explained and stopped."""
