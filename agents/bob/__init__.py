"""Bob: signs and seals what Alice trained, ships it over SSH, and brings back verdicts and releases."""
