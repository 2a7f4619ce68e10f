"""The instrument: which way of making one model out of many is worth using when.

    config      what a run is and what comes out of it; the seam between the runner and the engines
    read        experiments as small TOML files, with settings and shown: what they may say
    attack      what sites send that mean harm, and backdoor, what one of them does to its images
    prepare     a data set, divided for a run
    memory, ssh  the engines: the agents' rules without processes, and the agents themselves
    run         all runs of an experiment, several at once, finished ones kept
    results     what came out of all of them, as one file
    measure     what the outcomes mean side by side
    plots, report   for people

Uses `agents` and `models`; neither knows about it.
"""
