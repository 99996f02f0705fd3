package pgsource

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/internal/pg"
)

const label = `START WAL LOCATION: 1/2000028 (file 000000020000000100000002)
CHECKPOINT LOCATION: 1/2000060
BACKUP METHOD: streamed
BACKUP FROM: standby
START TIME: 2026-01-01 00:00:00 UTC
LABEL: x: y
START TIMELINE: 10
`

func TestLabelIsParsed(t *testing.T) {
	got, err := parseLabel([]byte(label))
	want := backupLabel{start: 0x102000028, checkpoint: 0x102000060, timeline: 10, standby: true}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, line := range strings.SplitAfter(label, "\n") {
		if strings.HasPrefix(line, "START T") && !strings.HasPrefix(line, "START TIMELINE") || strings.HasPrefix(line, "LABEL") ||
			strings.HasPrefix(line, "BACKUP METHOD") || line == "" {
			continue
		}
		if got, err := parseLabel([]byte(strings.Replace(label, line, "", 1))); err == nil {
			t.Errorf("without %q: %+v", line, got)
		}
	}
	for _, bad := range []string{"", strings.Replace(label, "1/2000028", "x", 1), strings.Replace(label, ": 10", ": A", 1)} {
		if got, err := parseLabel([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestSettingsAreParsed(t *testing.T) {
	for line, want := range map[string][2]string{
		"include 'a b'":                   {"include", "a b"},
		"  Include='x' # y":               {"include", "x"},
		"include = x.conf#y":              {"include", "x.conf"},
		`include_dir 'it''s \'here\' \\'`: {"include_dir", `it's 'here' \`},
		"# include 'x'":                   {"", ""},
		"":                                {"", ""},
		"include":                         {"", ""},
		"port=1":                          {"port", "1"},
	} {
		name, value := parseSetting(line + "\n")
		if got := [2]string{name, value}; got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestAuthLinesAreSplit(t *testing.T) {
	for line, want := range map[string][]string{
		"local all,@x  all\ttrust # @y": {"local", "all", "@x", "all", "trust"},
		`host "@x" "a b",c`:             {"host", `"@x`, `"a b`, "c"},
		`a"b c"d "" e`:                  {"ab cd", `"`, "e"},
		"":                              nil,
	} {
		if got := authWords(line + "\n"); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestStatsTempDirectoryIsRelative(t *testing.T) {
	for setting, want := range map[string]string{
		"": "", "pg_stat_tmp": "pg_stat_tmp", "a/b/": "a/b", "/data/real/x": "x", "/data/link/y": "y", "/run/stats": "", "../x": "", ".": "",
	} {
		if got := relativeStatsTemp(setting, "/data/real", "/data/link"); got != want {
			t.Errorf("%q: %q, want %q", setting, got, want)
		}
	}
}

func TestSegmentRecycledWhileReadIsNoSegment(t *testing.T) {
	const name, size = "000000010000000000000001", 1 << 20
	root := t.TempDir()
	path := filepath.Join(root, "pg_wal", name)
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	// A pipe lets the test act between the open and the end of the read.
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	recycled := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			err = errors.Join(os.Rename(path, path+"0"), os.WriteFile(path, nil, 0o600))
			_, failed := f.Write(make([]byte, size))
			err = errors.Join(err, failed, f.Close())
		}
		recycled <- err
	}()
	c := &Cluster{root: root, info: Info{Layout: Layout{WALSegmentSize: size}}}
	_, err := c.readSegment(name)
	if err := <-recycled; err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, ErrSegmentRemoved) {
		t.Error(err)
	}
}

func TestOtherVersionsAreRefused(t *testing.T) {
	for _, version := range []string{"120022", "190000"} {
		_, err := Connect(t.Context(), Options{DSN: serverOf(t, version)})
		var refused *VersionError
		if !errors.As(err, &refused) || refused.Version/10000 == pg.OldestMajor {
			t.Errorf("%s: %v", version, err)
		}
	}
}

// serverOf lets one session in and answers each query with the text. There are no servers of other versions here.
func serverOf(t *testing.T, answer string) (dsn string) {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		b := pgproto3.NewBackend(conn, conn)
		if _, err := b.ReceiveStartupMessage(); err != nil {
			return
		}
		b.Send(&pgproto3.AuthenticationOk{})
		b.Send(&pgproto3.BackendKeyData{SecretKey: []byte{1, 2, 3, 4}})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		for b.Flush() == nil {
			msg, err := b.Receive()
			if err != nil {
				return
			}
			if _, ok := msg.(*pgproto3.Sync); !ok {
				continue
			}
			b.Send(&pgproto3.ParseComplete{})
			b.Send(&pgproto3.BindComplete{})
			b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("x"), DataTypeOID: 25}}})
			b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(answer)}})
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SHOW")})
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
	}()
	return "host=" + dir + " port=1 user=x dbname=x sslmode=disable"
}
