"""Split learning among more parties than two, and several networks with a vote: experiments that no policy is."""
