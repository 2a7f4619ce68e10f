"""The names of events, and which of them do what; of gates. Constants only: the forced command reads them, too."""

JUDGED = (
    "accepted",
    "refused",
    "counted",
    "invalid",
    "report",
    "scored",
    "masks",
)  # what is judged once, and has a verdict's file
PLAIN = ("report", "scored", "masks")  # judged, but no word on a model
VERDICTS = ("accepted", "refused", "counted", "invalid")  # on a model
ROLES = ("site", "auditor")  # a site trains, an auditor reads
MAKES_CURRENT = ("genesis", "accepted", "round-accepted", "rollback")
PARAMETER_FREE = "parameter-free-ladder"
LADDERS = ("ladder", PARAMETER_FREE)  # gates that tell nothing of what they refuse
GATES = ("on", "off", *LADDERS)
CLOSES_ROUND = ("round-accepted", "round-refused")
