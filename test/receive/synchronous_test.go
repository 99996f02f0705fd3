package receive

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
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

// TestNothingIsConfirmedFromMemory: with synchronous_commit = remote_write a server is content with what a standby has written, and that is not durable here
// before it is in the repository. The role has REPLICATION only, and is not told whether the server waits for it.
func TestNothingIsConfirmedFromMemory(t *testing.T) {
	w := newWorld(t, "15", pgtest.Options{})
	w.announcedLongAgo()
	w.Exec(t, "CREATE TABLE x (i int)")
	w.Exec(t, "CREATE ROLE rep LOGIN REPLICATION")
	w.backup()
	r := w.receive(w.Server, "--dsn", "user=rep", "--application-name", "vault", "--interval", "1h")
	r.says("receiving WAL of system", 1)
	w.Configure(t, map[string]string{"synchronous_standby_names": "ANY 1 (vault)", "synchronous_commit": "remote_write"})
	w.Reload(t)
	r.says("the server waits for us", 1)
	back := w.away()
	before := position(t, w.Server)
	w.Exec(t, "SET synchronous_commit = local; INSERT INTO x VALUES (42)")
	at := position(t, w.Server)
	wait(t, "it has received what it cannot store", func() bool { return r.progress().Received >= at })
	r.says("the storage does not take WAL", 1)
	// The server was answered meanwhile, or is soon: a keepalive with a question comes at least every half of wal_sender_timeout.
	const states = "SELECT coalesce(max(greatest(write_lsn, flush_lsn, replay_lsn))::text, '0/0') FROM pg_stat_replication"
	told := w.Query(t, "SELECT coalesce(max(reply_time)::text, '') FROM pg_stat_replication")
	wait(t, "another answer to the server", func() bool {
		return w.Query(t, "SELECT coalesce(max(reply_time)::text, '') FROM pg_stat_replication") != told
	})
	confirmed, err := pg.ParseLSN(w.Query(t, states))
	if err != nil {
		t.Fatal(err)
	}
	if confirmed > before {
		t.Errorf("the server takes WAL up to %s for written, and it is durable up to %s at most", confirmed, before)
	}
	back()
	w.reached(w.Server, r)
	if code := r.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
