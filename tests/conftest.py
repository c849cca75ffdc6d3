from hypothesis import settings

# The first call of a kernel compiles it, which is no slow example.
settings.register_profile("dsdeploy", deadline=None)
settings.load_profile("dsdeploy")
