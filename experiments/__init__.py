"""The instrument: which way of making one model out of many is worth using when.

    config      what a run is and what comes out of it; the seam between the runner and the engines
    read        experiments as small TOML files, with settings, shown and choice: what they may say
    attack      what sites send that mean harm, and backdoor, what one of them does to its images
    prepare     a data set, divided for a run
    memory, ssh  the engines: the agents' rules without processes, and the agents themselves
    run         all runs of an experiment, several at once, finished ones kept
    results     what came out of all of them: file, as one file; brief, what a page is made from
    measure     what the outcomes mean side by side; intervals, how sure that is
    differences what is better than what, paired by seed; choosing, by the holdout and with seeds of its own
    tables, figures, plots, report, index   for people

Uses `agents` and `models`; neither knows about it.
"""
