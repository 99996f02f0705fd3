package walarchive

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// Check is how Verify reports.
type Check struct {
	Jobs     int                         // objects read at once; 0: one
	Chosen   func(key string) bool       // which objects are read; nil: all
	Progress func(stored int64)          // bytes as stored, after each object; called from several goroutines
	Damaged  func(key string, err error) // one object; the work goes on; called from several goroutines
}

// Verify reads every WAL object of the archive, or those that are chosen, and makes sure that it is the file that its name says, every byte of it.
// Objects that are damaged, or vanish meanwhile, are reported, but for parts that vanish; any other error ends the work.
func (a Archive) Verify(ctx context.Context, c Check) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(c.Jobs, 1) + 1)
	g.Go(func() error {
		return a.Objects.List(ctx, a.prefix(), func(key string, size int64) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if c.Chosen != nil && !c.Chosen(key) {
				return nil
			}
			g.Go(func() error {
				err := a.verify(ctx, key)
				if err != nil && (errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotExist) || errors.Is(err, ErrInvalid)) {
					if c.Damaged != nil {
						c.Damaged(key, err)
					}
					err = nil
				}
				if c.Progress != nil {
					c.Progress(size)
				}
				return err
			})
			return nil
		})
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("verify WAL: %w", err)
	}
	return nil
}

func (a Archive) verify(ctx context.Context, key string) error {
	_, _, n, err := ParseKey(key)
	if err != nil {
		return err
	}
	_, _, err = a.fetch(ctx, n)
	if n.Kind == PartKind && errors.Is(err, ErrNotExist) {
		return nil // parts go once their segment is there
	}
	return err
}
