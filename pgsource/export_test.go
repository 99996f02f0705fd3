package pgsource

import (
	"context"
	"time"

	"github.com/pgtrove/pgtrove/snapshot"
)

// ChangesWithin is Changes with another patience.
func (b *Backup) ChangesWithin(ctx context.Context, parent *snapshot.Manifest, patience time.Duration) (*Changes, error) {
	return b.changes(ctx, parent, patience)
}
