"""What tests play a federation with; fixtures stand in the conftest files, everything they hand out stands here.

room       the coordinator without Keras: the real vault, with bundles sealed for it and a stand-in judge
judge      the stand-in judge, as a program and in process
killed     kill -9 before every durable step
sites      a federation of real processes, of scripts/demo, that a test follows
bob        a site's Bob in process, and a door on files
alice      a site's folders as Alice sees them
releases   a coordinator who only signs: releases for tests of a site
images     images that are easy to tell apart
waiting    waiting for what another process or thread does
"""
