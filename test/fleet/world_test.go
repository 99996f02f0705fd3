package fleet

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// prefix is where in its bucket a fleet's repository is.
const prefix = "fleet"

// fleet is a repository in a bucket of a real S3 server, and the hosts that use it by the built binary, each with credentials of its own, which may do
// what docs/object-storage.md says and nothing else.
type fleet struct {
	*s3test.Server
	t      *testing.T
	bucket string
	dir    string // scratch
	policy policy // of the bucket
}

// newFleet starts an S3 server with a bucket, which nobody may use yet: see host.
func newFleet(t *testing.T, o s3test.Options, bucket func(*s3test.Server) string) *fleet {
	t.Helper()
	f := &fleet{Server: s3test.New(t, o), t: t, dir: pgtest.TempDir(t), policy: policy{Version: "2012-10-17"}}
	f.bucket = bucket(f.Server)
	return f
}

// repo is the repository's address.
func (f *fleet) repo() string { return "s3://" + f.bucket + "/" + prefix }

// host is a machine with an account of its own.
type host struct {
	*fleet
	account s3test.Account
	cluster string
	home    string
	pg      *pgtest.Server // that its commands talk to; nil: none
}

// host makes one whose account may do what the document says for that role.
func (f *fleet) host(role role, cluster string) *host {
	f.t.Helper()
	h := &host{fleet: f, account: f.Account(), cluster: cluster}
	h.home = filepath.Join(f.dir, h.account.AccessKey)
	if err := os.Mkdir(h.home, 0o700); err != nil {
		f.t.Fatal(err)
	}
	pgtest.Own(f.t, h.home)
	f.allow(documented(f.t, role), h)
	return h
}

// allow adds statements to the bucket's policy, for that host.
func (f *fleet) allow(text string, h *host) {
	f.t.Helper()
	f.policy.Statement = append(f.policy.Statement, parsePolicy(f.t, h.fill(text)).Statement...)
	all, err := json.Marshal(f.policy)
	if err != nil {
		f.t.Fatal(err)
	}
	f.Policy(f.bucket, string(all))
}

// fill puts names into the places that a document leaves for them.
func (h *host) fill(text string) string {
	return strings.NewReplacer("PRINCIPAL", h.account.AccessKey, "BUCKET", h.bucket, "PREFIX", prefix, "CLUSTER", h.cluster).Replace(text)
}

// env is what the host's settings are. The key is the one that init made; how hosts get it is no part of this.
func (h *host) env() []string {
	return append(h.Env(h.account), "PGTROVE_REPO="+h.repo(), "PGTROVE_KEY_FILE="+filepath.Join(h.dir, "identity.txt"), "PGTROVE_CLUSTER="+h.cluster,
		"PGTROVE_CACHE_DIR="+filepath.Join(h.home, "cache"))
}

// server starts a PostgreSQL server on the host, which archives.
func (h *host) server(version string) *pgtest.Server {
	h.t.Helper()
	h.pg = pgtest.New(h.t, version, pgtest.Options{Conf: map[string]string{
		"archive_mode": "on", "archive_command": pgtest.Binary(h.t) + " wal push %p"}})
	h.pg.ExtraEnv = h.env()
	h.pg.Start(h.t)
	return h.pg
}

// command prepares pgtrove as it runs on the host.
func (h *host) command(args ...string) *exec.Cmd {
	h.t.Helper()
	cmd := pgtest.Command(h.t, h.home, "pgtrove", args...)
	if h.pg != nil {
		cmd = h.pg.Command("pgtrove", args...)
	}
	cmd.Env = append(cmd.Env, h.env()...)
	return cmd
}

// ok runs pgtrove and returns its standard output; any exit code but 0 fails the test.
func (h *host) ok(args ...string) string {
	h.t.Helper()
	return pgtest.MustRun(h.t, h.command(args...))
}

// fails runs pgtrove, which must end with this exit code and say that.
func (h *host) fails(code int, say string, args ...string) string {
	h.t.Helper()
	r := pgtest.Run(h.t, h.command(args...))
	if r.Code != code || !strings.Contains(r.Stderr, say) {
		h.t.Errorf("pgtrove %s: exit %d, want %d and %q\n%s%s", strings.Join(args, " "), r.Code, code, say, r.Stdout, r.Stderr)
	}
	return r.Stderr
}

// backup takes a snapshot, whose WAL must be there, and returns its ID.
func (h *host) backup(args ...string) string {
	h.t.Helper()
	out := h.ok(append([]string{"backup", "--json", "--checkpoint", "fast"}, args...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var s struct{ Type, ID, WAL string }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil || s.Type != "snapshot" || s.WAL != "complete" {
		h.t.Fatalf("backup: %v\n%s", err, out)
	}
	return s.ID
}

// archived makes everything written so far part of the archive.
func (h *host) archived() {
	h.t.Helper()
	h.pg.WaitArchived(h.t, h.pg.SwitchWAL(h.t))
}

// restored restores the newest snapshot, with the host's rights, starts a server on it, and waits until it takes writes.
func (h *host) restored(version string) *pgtest.Server {
	h.t.Helper()
	dir, err := os.MkdirTemp(h.dir, "restored-")
	if err != nil {
		h.t.Fatal(err)
	}
	pgtest.Own(h.t, dir)
	h.ok("restore", "--to", dir)
	s := pgtest.Adopt(h.t, version, dir)
	s.Args = append(s.Args, "-c", "archive_mode=off") // what the original archives to must not be written by its copy
	s.ExtraEnv = h.env()
	s.Start(h.t)
	s.WaitPromoted(h.t)
	return s
}

// role is a heading of the document, below which the role's policy stands.
type role string

// The roles.
const (
	databaseHost role = "A database host"
	readingHost  role = "A reading host"
	pruningHost  role = "The pruning host"
	owner        role = "The owner"
	// everybody is no role, but what can be forbidden to all of them.
	everybody role = "Everybody: create only"
)

// policy is a policy as S3 has it. Statements are passed on as they are.
type policy struct {
	Version   string
	Statement []json.RawMessage
}

func parsePolicy(t *testing.T, text string) (p policy) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &p); err != nil || len(p.Statement) == 0 {
		t.Fatalf("no policy (%v): %s", err, text)
	}
	return p
}

// documented is the policy that docs/object-storage.md has for a role.
func documented(t *testing.T, r role) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/object-storage.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), fmt.Sprintf("\n### %s\n", r))
	section, _, _ = strings.Cut(section, "\n#")
	m := regexp.MustCompile("(?ms)^```json\n(.*?)^```$").FindAllStringSubmatch(section, -1)
	if !found || len(m) != 1 {
		t.Fatalf("docs/object-storage.md: %d policies under %q, want 1", len(m), r)
	}
	return m[0][1]
}
