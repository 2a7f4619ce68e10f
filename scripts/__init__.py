"""What is run in a checkout: each command beside this file starts the module of its name, quickstart the one in demo/.

`environment` and what it takes to show help need the standard library only, because they run before anything is there.
"""
