package receive

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// TestEveryAcknowledgedCommitSurvivesServerAndReceiver: the receiver is the only synchronous standby, and both die at the same moment.
func TestEveryAcknowledgedCommitSurvivesServerAndReceiver(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		w := newWorld(t, version, pgtest.Options{})
		w.announcedLongAgo()
		w.Exec(t, "CREATE TABLE x (client int, i int)")
		w.backup()
		r := w.receive(w.Server, "--application-name", "vault", "--interval", "1h")
		w.reachedWhole(r)
		w.Configure(t, map[string]string{"synchronous_standby_names": "vault", "synchronous_commit": "on"})
		w.Reload(t)
		r.says("the server waits for us", 1)

		const clients = 4
		var acknowledged [clients]atomic.Int64
		var all sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for c := range clients {
			all.Go(func() {
				conn, err := w.Connect(ctx, "postgres")
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
				for i := 1; ; i++ {
					if _, err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO x VALUES (%d, %d)", c, i)).ReadAll(); err != nil {
						return
					}
					acknowledged[c].Store(int64(i))
				}
			})
		}
		wait(t, "commits of all clients", func() bool {
			for c := range clients {
				if acknowledged[c].Load() < 200 {
					return false
				}
			}
			return true
		})
		r.kill()
		w.crash(w.Server)
		cancel()
		all.Wait()

		back := w.recovered()
		for c := range clients {
			got, err := strconv.ParseInt(back.Query(t, fmt.Sprintf("SELECT max(i) FROM x WHERE client = %d", c)), 10, 64)
			if want := acknowledged[c].Load(); err != nil || got < want {
				t.Errorf("client %d: %d commits are back, %d were acknowledged (%v)", c, got, want, err)
			}
		}
	})
}

// reachedWhole waits until the receiver streams.
func (w *world) reachedWhole(r *receiver) {
	w.t.Helper()
	r.says("receiving WAL of system", 1)
}
