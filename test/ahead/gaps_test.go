package ahead

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

const tooMuch = "--max-backlog=1MiB"

// nobody is an endpoint where nothing answers.
const nobody = "http://127.0.0.1:1"

// elsewhere runs f with another repository in the environment, at that endpoint.
func (w *world) elsewhere(endpoint string, f func()) {
	repo, more := w.repo, w.more
	w.repo = "s3://absent/x"
	w.more = []string{"AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b", "AWS_REGION=r", "AWS_ENDPOINT_URL_S3=" + endpoint, "PGTROVE_RETRY_TIME=0"}
	w.ExtraEnv = w.env()
	f()
	w.repo, w.more = repo, more
	w.ExtraEnv = w.env()
}

// ledger is the content of the record of what was given up; nil: there is none.
func (w *world) ledger() []byte {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.Dir, "pgtrove.gaps"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	return b
}

// put makes a file in pg_wal that the server could have made.
func (w *world) put(name string, content []byte) string {
	w.t.Helper()
	path := filepath.Join(w.Dir, "pg_wal", name)
	overwrite(w.t, path, content)
	pgtest.Own(w.t, path)
	return path
}

const someHistory = "1\t0/3000000\tno recovery target specified\n"

// TestThatOneStorageDoesNotAnswerSaysNothingOfAnother: an archive_command may push into two repositories, or be changed to push into another.
func TestThatOneStorageDoesNotAnswerSaysNothingOfAnother(t *testing.T) {
	w := newWorld(t, "15", waiting())
	names := w.backlog(6)
	w.put("00000002.history", []byte(someHistory))
	w.elsewhere(nobody, func() {
		w.push(0, "00000002.history", tooMuch)
		w.push(0, names[0], tooMuch)
	})
	r := w.push(0, names[0], tooMuch, "--ahead", "0")
	if !w.stored(names[0]) {
		t.Errorf("not stored where the storage answers\n%s", r.Stderr)
	}
	w.push(0, "00000002.history", tooMuch)
	l := w.ledger()
	for _, want := range []string{"s3://absent/x", "00000002.history", `"first"`} {
		if !bytes.Contains(l, []byte(want)) {
			t.Errorf("that the other repository lacks it is forgotten: %q is not in %s", want, l)
		}
	}
}

func TestABucketThatIsNotThereIsNoOutage(t *testing.T) {
	w, _, _ := inBucket(t, "15", waiting())
	names := w.backlog(5)
	r := w.push(4, names[0], tooMuch, "--repo", "s3://no-such-bucket/repo")
	if l := w.ledger(); l != nil {
		t.Errorf("%s\n%s", r.Stderr, l)
	}
}

func TestAStorageThatIsFullIsCalledFull(t *testing.T) {
	w := newWorld(t, "15", waiting())
	names := w.backlog(5)
	full := httptest.NewServer(http.HandlerFunc(func(a http.ResponseWriter, _ *http.Request) { a.WriteHeader(http.StatusInsufficientStorage) }))
	defer full.Close()
	w.elsewhere(full.URL, func() {
		for _, name := range names[:2] {
			if r := w.push(0, name, tooMuch); !strings.Contains(r.Stderr, "given up: the storage is full") {
				t.Error(r.Stderr)
			}
		}
	})
}

// TestAPartialSegmentThatWasGivenUpIsArchivedLater, if it is still there; else the archive is told, and nothing is forgotten before.
func TestAPartialSegmentThatWasGivenUpIsArchivedLater(t *testing.T) {
	w, _, proxy := inBucket(t, "15", waiting())
	names := w.backlog(6)
	there, gone := names[4]+".partial", names[5]+".partial"
	w.put(there, read(t, filepath.Join(w.Dir, "pg_wal", names[4])))
	path := w.put(gone, read(t, filepath.Join(w.Dir, "pg_wal", names[5])))
	history := w.put("00000002.history", []byte(someHistory))
	proxy.Set(s3test.Faults{Refuse: true})
	w.push(0, there, tooMuch)
	w.push(0, gone, tooMuch)
	w.push(0, "00000002.history", tooMuch)
	proxy.Set(s3test.Faults{})
	for _, path := range []string{path, history} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	r := w.push(0, names[0], "--ahead", "0")
	note := names[5] + "-" + names[5] + ".gap"
	if !w.stored(there) || !w.stored(note) {
		t.Fatalf("%s\n%s", r.Stderr, w.ok("inspect", "wal/"))
	}
	for line := range strings.Lines(w.ok("inspect", "wal/")) {
		if name := strings.Fields(line)[1]; strings.HasSuffix(name, note) && !strings.Contains(w.ok("inspect", name), gone) {
			t.Errorf("the note does not name it: %s", w.ok("inspect", name))
		}
	}
	// A history file is of no segment that a note could name: it stays in the record.
	if l := w.ledger(); !bytes.Contains(l, []byte("00000002.history")) || bytes.Contains(l, []byte(`.partial","at"`)) || !strings.Contains(r.Stderr, "00000002.history, which was given up: it is not in pg_wal any more") {
		t.Errorf("%s\n%s", r.Stderr, l)
	}
	w.put("00000002.history", []byte(someHistory))
	w.push(0, names[1], "--ahead", "0")
	if l := w.ledger(); l != nil || !w.stored("00000002.history") {
		t.Errorf("%s", l)
	}
}

// TestWhatIsGivenUpWhileAnotherCallNotesAGapIsKept: an archiver that was killed leaves its call running.
func TestWhatIsGivenUpWhileAnotherCallNotesAGapIsKept(t *testing.T) {
	w, _, proxy := inBucket(t, "15", waiting())
	names := w.backlog(8)
	proxy.Set(s3test.Faults{Refuse: true})
	w.push(0, names[0], tooMuch, "--retry-time", "0")
	proxy.Set(s3test.Faults{})
	end := w.begun("archived "+names[1], w.inData("wal", "push", "-v", "--ahead", "0", "--retry-time", "1m", "--limit-upload", "100kB", "pg_wal/"+names[1]))
	proxy.Set(s3test.Faults{Refuse: true})
	w.push(0, names[3], tooMuch, "--retry-time", "0")
	before := w.ledger()
	end()
	if l := w.ledger(); !bytes.Equal(l, before) {
		t.Errorf("the first call replaced\n%s by\n%s", before, l)
	}
	proxy.Set(s3test.Faults{})
	w.push(0, names[5], "--ahead", "0")
	if !w.stored(names[3] + "-" + names[3] + ".gap") {
		t.Errorf("no note of %s\n%s", names[3], w.ok("inspect", "wal/"))
	}
}
