package repo

import "context"

// Saw says whether the snapshot counted when the session's view was loaded, so that the view knows its chunks. Of one that was committed since,
// it may know none.
func (s *Session) Saw(sid string) bool { return s.saw[sid] }

// Pins gives the IDs that are pinned, those of snapshots that are gone too.
func (r *Repo) Pins(ctx context.Context) (map[string]bool, error) {
	m, err := r.marks(ctx)
	if err != nil {
		return nil, err
	}
	return m.pinned, nil
}
