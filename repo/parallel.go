package repo

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// fetchers is how many small reads are under way at once where many are wanted: a storage may take long to answer each.
const fetchers = 8

// inOrder calls fetch for every i below n, some at once, and use, one at a time and in order, with what it gave. The first
// error of either ends it and is returned. use runs in another goroutine than the caller's, and at most fetchers results wait for it.
func inOrder[T any](ctx context.Context, n int, fetch func(ctx context.Context, i int) (T, error), use func(i int, v T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	waiting := make(chan chan T, fetchers-1)
	g.Go(func() error {
		defer close(waiting)
		for i := range n {
			one := make(chan T, 1)
			select {
			case waiting <- one:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			g.Go(func() error {
				v, err := fetch(ctx, i)
				if err == nil {
					one <- v
				}
				return err
			})
		}
		return nil
	})
	g.Go(func() error {
		i := 0
		for one := range waiting {
			select {
			case v := <-one:
				if err := use(i, v); err != nil {
					return err
				}
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			i++
		}
		return nil
	})
	return g.Wait()
}
