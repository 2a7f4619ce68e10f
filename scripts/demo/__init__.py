"""The one launcher of a federation on one machine, for scripts/quickstart, the engine `ssh` and the tests.

    processes    agents as child processes: their log lines as events, their orderly end
    federation   a coordinator, her door and the sites in one folder: started, watched, killed, started again, stopped
    enrolment    how a site comes in: key, invitation, joining
    setup        what is missing of data, keys, coordinator and sites; a program, also compose's first container
    screen       events as lines that a person can follow
    live         a live screen of the run beside its lines; shown is its other side, a program
    bar          how far the training is and how long it will still take, at the foot of a terminal
    learned      what was learned, from the history: values and texts
    chart        a score over time as a picture
    quickstart   the demonstration

Standard library only, and what of fedssh needs no more; `setup` and `shown` alone run where everything is installed.
"""
