package pgsource_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

const (
	blockSize    = 8192
	startOfTests = pg.LSN(1000)
	insertLSN    = pg.LSN(2000)
)

// page makes a page with the right checksum for its block.
func page(block uint32, lsn pg.LSN, fill byte) []byte {
	p := bytes.Repeat([]byte{fill}, blockSize)
	binary.LittleEndian.PutUint32(p, uint32(lsn>>32))
	binary.LittleEndian.PutUint32(p[4:], uint32(lsn))
	binary.LittleEndian.PutUint16(p[14:], blockSize)
	binary.LittleEndian.PutUint16(p[8:], pg.PageChecksum(p, block))
	return p
}

// broken is a page with a byte that its checksum does not know.
func broken(block uint32, lsn pg.LSN) []byte {
	p := page(block, lsn, 1)
	p[5000]++
	return p
}

// verifier counts how often it asks for the insert position.
func verifier(asked *atomic.Int32) *pgsource.Verifier {
	return pgsource.NewVerifier(startOfTests, blockSize, func(context.Context) (pg.LSN, error) {
		asked.Add(1)
		return insertLSN, nil
	})
}

func relation(t *testing.T, pages ...[]byte) *pgsource.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "16384")
	write(t, path, string(bytes.Join(pages, nil)))
	return &pgsource.File{Entry: snapshot.Entry{Path: "data/base/5/16384"}, Disk: path, Relation: true}
}

func TestPagesThatAreRight(t *testing.T) {
	halfNew := make([]byte, blockSize) // pd_upper is 0, but something is there
	halfNew[6000] = 1
	stale := page(0, 10, 1)
	cases := map[string]struct {
		page  []byte
		right bool
	}{
		"good":                              {page(7, 10, 1), true},
		"all zeros":                         {make([]byte, blockSize), true},
		"new and not zero":                  {halfNew, false},
		"broken, older than the backup":     {broken(7, 999), false},
		"broken, as old as the backup":      {broken(7, startOfTests), false},
		"broken, written during the backup": {broken(7, startOfTests+1), true},
		"broken, written just now":          {broken(7, insertLSN), true},
		"broken, from the future":           {broken(7, insertLSN+1), false},
		"of another block":                  {stale, false},
	}
	for name, c := range cases {
		var asked atomic.Int32
		f := relation(t, page(5, 10, 1), page(6, 10, 1), c.page)
		f.FirstBlock = 5
		checked, err := verifier(&asked).Check(t.Context(), f, slices.Clone(c.page), 2)
		damaged := checked.Damaged
		// Pages that are right by themselves are not read again, and the others that are no damage were excused.
		if excused := c.right && checked.Reread; checked.Excused != excused {
			t.Errorf("%s: %+v", name, checked)
		}
		if err != nil || (len(damaged) == 0) != c.right {
			t.Errorf("%s: %+v, %v", name, damaged, err)
			continue
		}
		want := snapshot.DamagedPage{Path: "data/base/5/16384", Block: 7, Stored: pg.PageStoredChecksum(c.page), Computed: pg.PageChecksum(c.page, 7)}
		if !c.right && damaged[0] != want {
			t.Errorf("%s: %+v, want %+v", name, damaged[0], want)
		}
	}
}

func TestTornPageIsReadAgain(t *testing.T) {
	var asked atomic.Int32
	whole := page(1, 10, 1)
	f := relation(t, page(0, 10, 1), whole)
	run := append(page(0, 10, 1), broken(1, 10)...)
	reread := snapshot.Checked{Reread: true} // and then right: nothing to excuse
	checked, err := verifier(&asked).Check(t.Context(), f, run, 0)
	if err != nil || !reflect.DeepEqual(checked, reread) || !bytes.Equal(run[blockSize:], whole) || asked.Load() != 0 {
		t.Errorf("%+v, %v, asked %d times", checked, err, asked.Load())
	}

	// The server completes the page only later.
	f = relation(t, broken(0, 10))
	go func() {
		time.Sleep(15 * time.Millisecond)
		_ = os.WriteFile(f.Disk, page(0, 20, 2), 0o600)
	}()
	run = broken(0, 10)
	checked, err = verifier(&asked).Check(t.Context(), f, run, 0)
	if err != nil || !reflect.DeepEqual(checked, reread) || !bytes.Equal(run, page(0, 20, 2)) {
		t.Errorf("%+v, %v", checked, err)
	}
}

func TestWrongPageOfAFileThatGoesIsNoDamage(t *testing.T) {
	var asked atomic.Int32
	f := relation(t, page(0, 10, 1)) // truncated before block 1
	if c, err := verifier(&asked).Check(t.Context(), f, broken(1, 10), 1); c.Damaged != nil || err != nil {
		t.Errorf("truncated: %+v, %v", c, err)
	}
	if err := os.Remove(f.Disk); err != nil {
		t.Fatal(err)
	}
	if c, err := verifier(&asked).Check(t.Context(), f, broken(0, 10), 0); c.Damaged != nil || err != nil {
		t.Errorf("removed: %+v, %v", c, err)
	}
}

func TestManyDamagedPagesDoNotTakeForever(t *testing.T) {
	var asked atomic.Int32
	v := verifier(&asked)
	f := relation(t, broken(0, 10))
	began := time.Now()
	const runs = 500
	for range runs {
		c, err := v.Check(t.Context(), f, broken(0, 10), 0)
		if err != nil || len(c.Damaged) != 1 {
			t.Fatal(c, err)
		}
	}
	if took := time.Since(began); took > 60*time.Second {
		t.Errorf("%d damaged runs took %s", runs, took)
	}
}

func TestInsertPositionThatCannotBeReadIsAnError(t *testing.T) {
	f := relation(t, broken(0, startOfTests+1))
	lost := errors.New("lost")
	v := pgsource.NewVerifier(startOfTests, blockSize, func(context.Context) (pg.LSN, error) { return 0, lost })
	if _, err := v.Check(t.Context(), f, broken(0, startOfTests+1), 0); !errors.Is(err, lost) {
		t.Error(err)
	}
}

func TestDamageOnDiskIsReported(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{})
		s.Exec(t, "CREATE TABLE l AS SELECT generate_series(1, 10000) AS n")
		path := s.Query(t, "SELECT pg_relation_filepath('l')")
		s.Exec(t, "VACUUM l")
		s.Exec(t, "CHECKPOINT")
		disk := filepath.Join(s.Dir, path)
		f, err := os.OpenFile(disk, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("damage"), 3*blockSize+4000); err != nil {
			t.Fatal(err)
		}
		b := start(t, connect(t, s))
		damaged := check(t, b)
		read := make([]byte, blockSize)
		if _, err := f.ReadAt(read, 3*blockSize); err != nil {
			t.Fatal(err)
		}
		want := []snapshot.DamagedPage{{Path: "data/" + path, Block: 3, Stored: pg.PageStoredChecksum(read), Computed: pg.PageChecksum(read, 3)}}
		if !slices.Equal(damaged, want) || want[0].Stored == want[0].Computed {
			t.Errorf("damaged %+v, want %+v", damaged, want)
		}
	})
}

// check reads all files of a backup as snapshot.Take does, in runs of pages, and returns the damaged pages.
func check(t *testing.T, b *pgsource.Backup) []snapshot.DamagedPage {
	t.Helper()
	files, err := b.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var damaged []snapshot.DamagedPage
	checked := 0
	for _, s := range b.Sources(t.Context(), files, b.Verifier(), nil) {
		if s.Check == nil {
			continue
		}
		content, err := s.Open()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		run := make([]byte, 16*blockSize)
		for first := int64(0); ; first += 16 {
			n, _ := content.ReadAt(run, first*blockSize)
			found, err := s.Check(t.Context(), run[:n/blockSize*blockSize], first)
			if err != nil {
				t.Fatal(err)
			}
			damaged = append(damaged, found.Damaged...)
			checked += n / blockSize
			if n < len(run) {
				break
			}
		}
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if checked < 1000 {
		t.Errorf("only %d pages were checked", checked)
	}
	return damaged
}

func TestLoadIsNotTakenForDamage(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		// Few buffers and a busy background writer: the server writes pages all the time.
		s := running(t, version, pgtest.Options{Conf: map[string]string{"shared_buffers": "1MB", "bgwriter_delay": "10ms",
			"bgwriter_lru_maxpages": "1000", "synchronous_commit": "off", "checkpoint_timeout": "30s"}})
		s.Pgbench(t, "-i", "-s", "2", "--quiet")
		load := s.Command("pgbench", "-c", "3", "-T", "120", "-n")
		if err := load.Start(); err != nil {
			t.Fatal(err)
		}
		b := start(t, connect(t, s))
		torn := 0
		eventually(t, "torn", func() bool {
			torn += tear(t, b)
			return torn > 50
		})
		if damaged := check(t, b); damaged != nil {
			t.Errorf("damaged: %+v", damaged)
		}
		if err := load.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = load.Wait()
		stop(t, b)
	})
}

// tear reads relation files so that each page's halves come from different moments, as when the server writes between two reads of
// the kernel, and has them checked. It returns how many pages were torn.
func tear(t *testing.T, b *pgsource.Backup) (torn int) {
	t.Helper()
	files, err := b.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range b.Sources(t.Context(), files, b.Verifier(), nil) {
		if s.Check == nil || s.Size < 100*blockSize {
			continue
		}
		run := readFile(t, s)
		time.Sleep(20 * time.Millisecond)
		later := readFile(t, s)
		run = run[:min(len(run), len(later))/blockSize*blockSize]
		for at := 0; at < len(run); at += blockSize {
			copy(run[at+blockSize/2:at+blockSize], later[at+blockSize/2:])
			if p := run[at : at+blockSize]; !pg.PageIsNew(p) && pg.PageStoredChecksum(p) != pg.PageChecksum(p, uint32(at/blockSize)) {
				torn++
			}
		}
		if c, err := s.Check(t.Context(), run, 0); err != nil || c.Damaged != nil {
			t.Fatalf("%s: %+v, %v", s.Path, c, err)
		}
	}
	return torn
}

func readFile(t *testing.T, s snapshot.Source) []byte {
	t.Helper()
	content, err := s.Open()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	data := make([]byte, s.Size)
	n, err := content.ReadAt(data, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return data[:n]
}

func TestWithoutChecksumsNothingIsChecked(t *testing.T) {
	s := running(t, "15", pgtest.Options{NoChecksums: true})
	b := start(t, connect(t, s))
	files, err := b.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	relations := 0
	for _, src := range b.Sources(t.Context(), files, b.Verifier(), nil) {
		if src.Check != nil {
			t.Fatalf("%s is checked", src.Path)
		}
		if src.Form == 13 {
			relations++
		}
	}
	if relations < 100 {
		t.Errorf("%d relations", relations)
	}
}

func BenchmarkCheck(b *testing.B) {
	var run []byte
	for i := range uint32(128) {
		run = append(run, page(i, 10, byte(i))...)
	}
	var asked atomic.Int32
	v, f := verifier(&asked), &pgsource.File{}
	b.SetBytes(int64(len(run)))
	b.ReportAllocs()
	for b.Loop() {
		if c, err := v.Check(b.Context(), f, run, 0); c.Damaged != nil || err != nil {
			b.Fatal(c, err)
		}
	}
}
