// Package gc finds out which chunks are live: those without which some snapshot could not be restored.
//
// It reads listings and recipes through an interface of one method, and names chunks. It never deletes, knows no pack and no
// repository, and decides neither which snapshots stay nor what becomes of the chunks that it does not name: that is package
// repo's part of a prune run. cmd brings the two together.
package gc

import (
	"errors"
	"fmt"
)

// Judge is what a Fetcher may be besides. It tells errors that say something of what is stored, such as a chunk that is gone or
// does not open, from those that do not, such as an outage. Of a Fetcher that is no Judge, every error says something.
type Judge interface {
	IsDamage(error) bool
}

// DamageError is metadata that cannot be read: what the file of a snapshot needs, or if Path is empty what the snapshot needs,
// is then not known. A recipe that stands in several places makes one error.
type DamageError struct {
	Cluster, Snapshot string // ID; of the oldest that is concerned
	Path              string // in the listing; "": the listing itself
	Others            int    // how many more files, of this snapshot and of others, have the same recipe
	Err               error
}

func (e *DamageError) Error() string {
	others := ""
	if e.Others > 0 {
		others = fmt.Sprintf(" (and %d more files of the same content)", e.Others)
	}
	return fmt.Sprintf("%s%s: %v", e.subject(), others, e.Err)
}

func (e *DamageError) Unwrap() error { return e.Err }

func (e *DamageError) subject() string {
	if e.Path == "" {
		return "mark snapshot " + e.Snapshot
	}
	return fmt.Sprintf("mark %s of snapshot %s", e.Path, e.Snapshot)
}

// LossError is all damage that Mark has met. errors.Is and errors.As look into what is listed.
type LossError struct {
	Damage []*DamageError // the first of it, not empty
	More   int            // how many errors were left out
}

func (e *LossError) Error() string {
	more := ""
	if e.More > 0 {
		more = fmt.Sprintf("\nand %d more", e.More)
	}
	return errors.Join(e.Unwrap()...).Error() + more
}

// Unwrap gives errors.Is and errors.As what is listed.
func (e *LossError) Unwrap() []error {
	all := make([]error, len(e.Damage))
	for i, d := range e.Damage {
		all[i] = d
	}
	return all
}
