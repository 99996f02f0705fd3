package walrules

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// TestAShutdownDoesNotWaitForStorageThatIsAway: pg_ctl, and the harness, wait for a minute.
func TestAShutdownDoesNotWaitForStorageThatIsAway(t *testing.T) {
	t.Parallel()
	storage := s3test.New(t, s3test.Options{})
	for version, fault := range map[string]s3test.Faults{"13": {Stall: true}, "18": {Refuse: true}} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			proxy := s3test.NewProxy(t, storage.Addr)
			a := &archive{t: t, dir: pgtest.TempDir(t), repo: "s3://" + storage.Bucket() + "/repo"}
			a.key = filepath.Join(a.dir, "identity.txt")
			a.more = append(storage.Env(storage.Root), "AWS_ENDPOINT_URL_S3=http://"+proxy.Addr)
			a.init()
			s := a.server(version, pgtest.Options{})
			s.WaitArchived(t, s.SwitchWAL(t))
			proxy.Set(fault)
			begun := filepath.Join(a.dir, "begun")
			hasBegun := func() bool {
				_, err := os.Stat(begun)
				return err == nil
			}
			set(t, s, map[string]string{"archive_command": "touch " + begun + "; " + push(t)})
			name := s.SwitchWAL(t)
			eventually(t, "a push has begun", hasBegun)
			s.Stop(t, pgtest.Fast)
			if _, err := os.Stat(inWAL(s, filepath.Join("archive_status", name+".ready"))); err != nil {
				t.Errorf("the segment does not wait: %v", err)
			}
			if log := s.Log(); !strings.Contains(log, "database system is shut down") || strings.Contains(log, "terminated by signal") {
				t.Errorf("no clean shutdown:\n%s", log)
			}
			proxy.Set(s3test.Faults{})
			s.Start(t)
			s.WaitArchived(t, name)
			if a.fetched(s, name) == nil {
				t.Errorf("%s is not there", name)
			}

			// The same server as a standby, whose restore_command hangs.
			s.Stop(t, pgtest.Fast)
			write(t, filepath.Join(s.Dir, "standby.signal"), "")
			s.Configure(t, map[string]string{"archive_mode": "off", "wal_retrieve_retry_interval": "200ms",
				"restore_command": "touch " + begun + "; " + pgtest.Binary(t) + " wal fetch %f %p; code=$?; rm " + begun + "; exit $code"})
			s.Start(t)
			proxy.Set(fault)
			eventually(t, "a fetch is under way", hasBegun)
			s.Stop(t, pgtest.Fast)
			proxy.Set(s3test.Faults{})
			if s.Start(t); s.Query(t, "SELECT pg_is_in_recovery()") != "t" {
				t.Error("it promoted itself")
			}
		})
	}
}
