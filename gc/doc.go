// Package gc finds out which chunks are live: those without which some snapshot could not be restored.
//
// It reads listings and recipes through an interface of one method, and names chunks. It never deletes, knows no pack and no
// repository, and decides neither which snapshots stay nor what becomes of the chunks that it does not name: that is package
// repo's part of a prune run. cmd brings the two together.
package gc

import "fmt"

// Judge is what a Fetcher may be besides. It tells errors that say something of what is stored, such as a chunk that is gone or
// does not open, from those that do not, such as an outage. Of a Fetcher that is no Judge, every error says something.
type Judge interface {
	IsDamage(error) bool
}

// DamageError is metadata that cannot be read: what the file of a snapshot needs, or if Path is empty what the snapshot needs,
// is then not known.
type DamageError struct {
	Cluster, Snapshot string // ID
	Path              string // in the listing; "": the listing itself
	Err               error
}

func (e *DamageError) Error() string { return fmt.Sprintf("%s: %v", e.subject(), e.Err) }

func (e *DamageError) Unwrap() error { return e.Err }

func (e *DamageError) subject() string {
	if e.Path == "" {
		return "mark snapshot " + e.Snapshot
	}
	return fmt.Sprintf("mark %s of snapshot %s", e.Path, e.Snapshot)
}
