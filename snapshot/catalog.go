package snapshot

import (
	"fmt"
	"slices"
	"strings"
)

// Latest is the name by which people ask for the newest snapshot.
const Latest = "latest"

// SortByStop puts snapshots in order of the time at which they end; of equals the later session comes later.
func SortByStop(snapshots []*Manifest) {
	slices.SortFunc(snapshots, func(a, b *Manifest) int {
		if a.Window.StopTime.Equal(b.Window.StopTime) {
			return strings.Compare(a.ID, b.ID)
		}
		return a.Window.StopTime.Compare(b.Window.StopTime)
	})
}

// Find returns the snapshot that name stands for: an ID, the beginning or the end of one that fits no other, or
// Latest, which is the last of the list.
func Find(snapshots []*Manifest, name string) (*Manifest, error) {
	if name == Latest {
		if len(snapshots) == 0 {
			return nil, fmt.Errorf("%w: there are none", ErrNotFound)
		}
		return snapshots[len(snapshots)-1], nil
	}
	var found *Manifest
	for _, m := range snapshots {
		if m.ID == name {
			return m, nil
		}
		if name != "" && (strings.HasPrefix(m.ID, name) || strings.HasSuffix(m.ID, name)) {
			if found != nil {
				return nil, fmt.Errorf("%w: %q is %s and %s", ErrAmbiguous, name, found.ID, m.ID)
			}
			found = m
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	return found, nil
}
