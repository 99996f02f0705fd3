package repo

// Saw says whether the snapshot counted when the session's view was loaded, so that the view knows its chunks. Of one that was committed since,
// it may know none.
func (s *Session) Saw(sid string) bool { return s.saw[sid] }
