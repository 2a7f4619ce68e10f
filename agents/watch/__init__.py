"""The history on a reader's own screen, as it grows: `fedssh watch`.

    command      what was asked for, and how it ends
    ssh          the reader's own ssh as a child process, line by line; `file` the same from a file
    trust        whose signature is believed: a file's, an invitation's, or the first one that was seen
    remembered   what is kept of that from one day to the next, and the newest record that was seen
    follow       reads, checks each record as Bob does, and begins anew where the connection ends
    board        what the records say so far, as one value; pure
    text         that value as text; pure
    screen       the same on a terminal: the only place for textual; `terminal` says whether there is one

Nothing is shown that was not checked before: form, hash, link, signature and decision.
"""
