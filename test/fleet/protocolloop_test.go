package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// loop is one repository in which two clusters under load are backed up over and over, while a third host prunes over and over.
type loop struct {
	t       *testing.T
	dir     string // scratch
	storage *s3test.Server
	front   *s3test.Front // between backups and the storage
	bucket  string

	mu              sync.Mutex
	fenced          map[string]bool // sessions, by what prunes say
	prunes, blocked int             // that ended well, and that had to wait
	deleted         int             // packs
	hunted          int             // backups that are dead, or as good as dead, and not fenced yet
	stop            atomic.Bool     // no more prunes
}

// loopCluster is one of the clusters, with a cache of its own.
type loopCluster struct {
	*loop
	*pgtest.Server
	name string
}

// loopRounds is how many backups of each cluster there are.
const loopRounds = 4

// TestTwoClustersUnderLoadAndAPruneInALoop ends one backup with SIGKILL before it commits, and holds another up until a prune has fenced it.
func TestTwoClustersUnderLoadAndAPruneInALoop(t *testing.T) {
	l := &loop{t: t, dir: pgtest.TempDir(t), storage: s3test.New(t, s3test.Options{}), fenced: map[string]bool{}}
	l.front, l.bucket = s3test.NewFront(t, l.storage.Addr), l.storage.Bucket()
	l.ok(l.command("prunes", "init"))
	a, b := l.cluster("a"), l.cluster("b")
	stopA, stopB := a.load(), b.load()

	var backups, prunes sync.WaitGroup
	meet := newMeeting()
	l.front.Set(meet.decide)
	prunes.Go(l.prune)
	var killed, survivor string
	backups.Go(func() { killed = a.backups(meet, (*loopCluster).kill) })
	backups.Go(func() { survivor = b.backups(meet, (*loopCluster).holdUp) })
	backups.Wait()
	l.stop.Store(true)
	prunes.Wait()
	stopA()
	stopB()
	if t.Failed() {
		return
	}
	for range 4 { // whoever is dead is so now
		l.pruneOnce("--fence-after", "1ms")
	}
	for _, sid := range []string{killed, survivor} {
		if !l.fenced[sid] {
			t.Errorf("session %s was not fenced: %v", sid, l.fenced)
		}
	}
	t.Logf("%d prunes, %d of them blocked, deleted %d packs and fenced %d sessions", l.prunes+l.blocked, l.blocked, l.deleted, len(l.fenced))
	if l.deleted == 0 {
		t.Error("nothing was deleted")
	}
	l.tidy()
	l.ok(l.command("prunes", "verify", "--read-data"))
	a.comesBack(func(all []string) string { return all[0] })
	b.comesBack(func(all []string) string { return all[len(all)-1] })
}

// command prepares pgtrove for a host, on the way to the storage that has no front.
func (l *loop) command(host string, args ...string) *exec.Cmd {
	l.t.Helper()
	cmd := pgtest.Command(l.t, l.dir, "pgtrove", args...)
	cmd.Env = append(cmd.Env, l.env(host)...)
	return cmd
}

// env is what pgtrove needs on a host.
func (l *loop) env(host string) []string {
	return append(l.storage.Env(l.storage.Root), "PGTROVE_REPO=s3://"+l.bucket+"/fleet", "PGTROVE_KEY_FILE="+filepath.Join(l.dir, "key"),
		"PGTROVE_CLUSTER="+host, "PGTROVE_CACHE_DIR="+filepath.Join(l.dir, "cache-"+host))
}

// do runs a program and says how it ended. Like all below that several goroutines use, it does not end the test.
func (l *loop) do(cmd *exec.Cmd) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		l.t.Error(err)
		return -1, "", ""
	}
	_ = cmd.Wait() // the exit code says it
	return pgtest.ExitCode(cmd.ProcessState), out.String(), errs.String()
}

func (l *loop) ok(cmd *exec.Cmd) (stdout string) {
	code, stdout, stderr := l.do(cmd)
	if code != 0 {
		l.t.Errorf("%s: exit %d\n%s%s", strings.Join(cmd.Args[1:], " "), code, stdout, stderr)
	}
	return stdout
}

// cluster makes and starts one, which archives by itself.
func (l *loop) cluster(name string) *loopCluster {
	l.t.Helper()
	c := &loopCluster{loop: l, name: name}
	c.Server = pgtest.New(l.t, "15", pgtest.Options{WALSegMB: 4, Conf: map[string]string{
		"archive_mode": "on", "archive_command": pgtest.Binary(l.t) + " wal push %p", "autovacuum_naptime": "2s", "max_wal_size": "32MB",
	}})
	c.ExtraEnv = l.env(name)
	c.Start(l.t)
	c.Pgbench(l.t, "-i", "-q", "-s", "2")
	return c
}

// load runs pgbench beside the test until it is stopped.
func (c *loopCluster) load() (stop func()) {
	c.t.Helper()
	cmd := c.Server.Command("pgbench", "-n", "-c", "2", "-R", "100", "-T", "300")
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
	}
}

// meeting is where the test is told that a backup is about to commit.
type meeting struct {
	mu    sync.Mutex
	who   map[string]chan string // gets the session, by cluster
	fails map[string]bool        // whose commit does not come to the server
}

func newMeeting() *meeting { return &meeting{who: map[string]chan string{}, fails: map[string]bool{}} }

// expect gives what the session of the cluster's next commit comes through. That commit is put off.
func (m *meeting) expect(cluster string) <-chan string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.who[cluster], m.fails[cluster] = make(chan string, 1), true
	return m.who[cluster]
}

// pass lets the cluster's commits come to the server again.
func (m *meeting) pass(cluster string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fails[cluster] = false
}

func (m *meeting) decide(r s3test.Request) (a s3test.Answer) {
	parts := strings.Split(r.Key, "/snapshots/")
	if r.Method != "PUT" || len(parts) != 2 {
		return a
	}
	cluster, sid, _ := strings.Cut(parts[1], "/")
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.who[cluster]; c != nil {
		c <- sid
		m.who[cluster] = nil
	}
	a.Busy = m.fails[cluster]
	return a
}

// backups takes them one after the other, and one of them in a special way, which gives a session that is fenced.
func (c *loopCluster) backups(m *meeting, special func(*loopCluster, *meeting, *exec.Cmd) string) (fenced string) {
	for n := range loopRounds {
		cmd := c.command(c.name, "backup", "--checkpoint", "fast", "-v")
		cmd.Env = append(cmd.Env, c.Env()...)
		cmd.Env = append(cmd.Env, "AWS_ENDPOINT_URL_S3=http://"+c.front.Addr)
		if n == 1 {
			fenced = special(c, m, cmd)
		} else {
			c.ok(cmd)
		}
		if c.t.Failed() {
			return fenced
		}
	}
	return fenced
}

// begun starts a backup and gives its session once it is about to commit; end waits for its end.
func (c *loopCluster) begun(m *meeting, cmd *exec.Cmd) (sid string, end func() (code int, stderr string)) {
	var errs bytes.Buffer
	cmd.Stderr = &errs
	reached := m.expect(c.name)
	if err := cmd.Start(); err != nil {
		c.t.Error(err)
		return "", func() (int, string) { return -1, "" }
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the exit code says it
		close(done)
	}()
	select {
	case sid = <-reached:
	case <-done:
		c.t.Errorf("a backup of %s ended before it was about to commit: %s", c.name, errs.String())
	}
	return sid, func() (int, string) {
		<-done
		return pgtest.ExitCode(cmd.ProcessState), errs.String()
	}
}

// kill ends a backup with SIGKILL when all but its commit is done.
func (c *loopCluster) kill(m *meeting, cmd *exec.Cmd) string {
	sid, end := c.begun(m, cmd)
	_ = cmd.Process.Signal(syscall.SIGKILL)
	if code, said := end(); code != 128+int(syscall.SIGKILL) {
		c.t.Errorf("a backup that is killed: exit %d\n%s", code, said)
	}
	m.pass(c.name)
	c.hunt(sid)
	return sid
}

// hunt waits until a prune has fenced a session.
func (c *loopCluster) hunt(sid string) {
	count := func(more int) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.hunted += more
		return c.fenced[sid]
	}
	count(1)
	defer count(-1)
	for deadline := time.Now().Add(time.Minute); !count(0) && !c.t.Failed(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Errorf("no prune has fenced session %s", sid)
		}
	}
}

// holdUp stops a backup in the same place until a prune has fenced it, and lets it go on: it must notice, and commit in another session.
func (c *loopCluster) holdUp(m *meeting, cmd *exec.Cmd) string {
	sid, end := c.begun(m, cmd)
	_ = cmd.Process.Signal(syscall.SIGSTOP)
	m.pass(c.name)
	c.hunt(sid)
	_ = cmd.Process.Signal(syscall.SIGCONT)
	if code, said := end(); code != 0 || !strings.Contains(said, "session "+sid+" was fenced by a prune") {
		c.t.Errorf("a backup that was fenced: exit %d\n%s", code, said)
	}
	return sid
}

// prune forgets and prunes until there are no more backups. Only while somebody is hunted, backups that have been silent for a moment are fenced; whoever
// else is hit goes on, too.
func (l *loop) prune() {
	for !l.stop.Load() && !l.t.Failed() {
		for _, cluster := range []string{"a", "b"} {
			if all := l.snapshots(cluster); len(all) > 2 {
				l.ok(l.command(cluster+"-keeper", append([]string{"forget", "--cluster", cluster}, all[:len(all)-2]...)...))
			}
		}
		l.mu.Lock()
		hunting := l.hunted > 0
		l.mu.Unlock()
		l.pruneOnce("--fence-after", map[bool]string{true: "3s", false: "1h"}[hunting])
		time.Sleep(200 * time.Millisecond)
	}
}

// pruneOnce prunes. That a run has to wait for a backup is well.
func (l *loop) pruneOnce(args ...string) {
	code, stdout, stderr := l.do(l.command("prunes", append([]string{"prune", "--json", "--max-delete", "100%"}, args...)...))
	var p struct {
		Fenced, Blocked []struct{ ID string }
		Damage          []string
		Deleted         struct{ Packs int }
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &p); err != nil || len(p.Damage) > 0 || code != 0 && (code != 3 || len(p.Blocked) == 0) {
		l.t.Errorf("prune: exit %d, %v\n%s%s", code, err, stdout, stderr)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if code != 0 {
		l.blocked++
		return
	}
	l.prunes++
	l.deleted += p.Deleted.Packs
	for _, s := range p.Fenced {
		l.fenced[s.ID] = true
	}
}

// snapshots gives a cluster's, the newest last.
func (l *loop) snapshots(cluster string) (ids []string) {
	for line := range strings.Lines(l.ok(l.command("prunes", "snapshots", "--json", "--cluster", cluster))) {
		var s struct{ Type, ID string }
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			l.t.Error(err)
		}
		if s.Type == "snapshot" {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// tidy makes sure that prunes have left nothing of sessions, and of snapshots what is shown.
func (l *loop) tidy() {
	l.t.Helper()
	shown := slices.Concat(l.snapshots("a"), l.snapshots("b"))
	if err := l.storage.Store(l.bucket, "fleet", l.storage.Root).List(l.t.Context(), "", func(i storage.Info) error {
		top, rest, _ := strings.Cut(i.Key, "/")
		if top == "sessions" || top == "index" || top == "forget" || top == "snapshots" && !slices.Contains(shown, rest[strings.LastIndexByte(rest, '/')+1:]) {
			l.t.Errorf("left over: %s", i.Key)
		}
		return nil
	}); err != nil {
		l.t.Error(err)
	}
}

// comesBack restores one of the snapshots, to the end of the archive, starts it and compares.
func (c *loopCluster) comesBack(choose func(ids []string) string) {
	c.t.Helper()
	all := c.snapshots(c.name)
	if len(all) == 0 {
		c.t.Fatalf("no snapshots of cluster %s", c.name)
	}
	c.WaitArchived(c.t, c.SwitchWAL(c.t))
	want := c.contents(c.Server)
	dir := filepath.Join(c.dir, "restored-"+c.name)
	c.ok(c.command(c.name, "restore", choose(all), "--to", dir))
	s := pgtest.Adopt(c.t, c.Version, dir)
	s.Args = append(s.Args, "-c", "archive_mode=off")
	s.ExtraEnv = c.env(c.name)
	s.Start(c.t)
	s.WaitPromoted(c.t)
	if got := c.contents(s); got != want {
		c.t.Errorf("cluster %s came back with other contents: %d bytes of dump, want %d", c.name, len(got), len(want))
	}
}

// contents is a dump, without the random words of recent minor versions.
func (c *loopCluster) contents(s *pgtest.Server) string {
	c.t.Helper()
	var b strings.Builder
	for line := range strings.Lines(pgtest.MustRun(c.t, s.Command("pg_dumpall"))) {
		if !strings.HasPrefix(line, "\\restrict") && !strings.HasPrefix(line, "\\unrestrict") {
			fmt.Fprint(&b, line)
		}
	}
	return b.String()
}
