"""The trainer: sees a site's data and plain weights; has no network and no key."""
