package pg_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

// goldenControl is the beginning of the control file of a new cluster of the version.
func goldenControl(t testing.TB, version string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/control-" + version + ".bin")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestControlFilesOfAllVersionsAreRead(t *testing.T) {
	ids := map[string]pg.SystemID{"13": 7710420888258452009, "14": 7710420896629926468, "15": 7710420906110401174,
		"16": 7710420925296073621, "17": 7710420939500788748, "18": 7710420956777901220}
	for _, version := range pgtest.AllVersions() {
		c, err := pg.ParseControl(goldenControl(t, version))
		if err != nil {
			t.Errorf("%s: %v", version, err)
			continue
		}
		if strconv.Itoa(c.Major()) != version || c.SystemID != ids[version] || !c.HasChecksums() || c.Timeline != 1 || c.BlockSize != 8192 ||
			c.RelSegSize != 131072 || c.WALSegmentSize != pg.DefaultSegmentSize || c.RedoLSN != c.CheckpointLSN || c.Time.Location() != time.UTC {
			t.Errorf("%s: %+v", version, c)
		}
	}
}

func TestAnyFlippedBitOfAControlFileIsFound(t *testing.T) {
	for _, version := range []string{"13", "17", "18"} {
		good := goldenControl(t, version)
		end := 292
		if version == "18" {
			end = 296
		}
		for bit := range end * 8 {
			b := append([]byte(nil), good...)
			b[bit/8] ^= 1 << (bit % 8)
			if c, err := pg.ParseControl(b); !errors.Is(err, pg.ErrControlCRC) && !errors.Is(err, pg.ErrControlVersion) {
				t.Fatalf("%s, bit %d of byte %d: %+v, %v", version, bit%8, bit/8, c, err)
			}
		}
		for n := range end {
			if c, err := pg.ParseControl(good[:n]); !errors.Is(err, pg.ErrControlCRC) {
				t.Fatalf("%s, %d bytes: %+v, %v", version, n, c, err)
			}
		}
	}
}

func TestControlFileWithImpossibleValuesIsRefused(t *testing.T) {
	for at, v := range map[int]uint32{216: 0, 220: 0, 224: 3, 228: 0} {
		b := goldenControl(t, "15")
		binary.LittleEndian.PutUint32(b[at:], v)
		binary.LittleEndian.PutUint32(b[288:], crc32.Checksum(b[:288], crc32.MakeTable(crc32.Castagnoli)))
		if c, err := pg.ParseControl(b); !errors.Is(err, pg.ErrControlInvalid) {
			t.Errorf("%d at %d: %+v, %v", v, at, c, err)
		}
	}
	b := goldenControl(t, "15")
	binary.LittleEndian.PutUint32(b[8:], 1201)
	if c, err := pg.ParseControl(b); !errors.Is(err, pg.ErrControlVersion) {
		t.Errorf("version of 12: %+v, %v", c, err)
	}
}

func TestTornControlFileIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	if _, err := pg.ReadControl(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no control file: %v", err)
	}
	good := goldenControl(t, "16")
	torn := append([]byte(nil), good...)
	torn[100] ^= 1
	path := filepath.Join(dir, pg.ControlPath)
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Error(err)
		}
	}
	write(torn)
	if c, err := pg.ReadControl(dir); !errors.Is(err, pg.ErrControlCRC) {
		t.Errorf("torn for good: %+v, %v", c, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(15 * time.Millisecond)
		write(good)
	}()
	if c, err := pg.ReadControl(dir); err != nil || c.Major() != 16 {
		t.Errorf("torn for a moment: %+v, %v", c, err)
	}
	<-done
}

func TestVersionFileOfNoDataDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, err := pg.ReadMajor(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "PG_VERSION"), []byte("fifteen\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pg.ReadMajor(dir); !errors.Is(err, pg.ErrSyntax) {
		t.Errorf("%v", err)
	}
}

func FuzzParseControl(f *testing.F) {
	for _, version := range pgtest.AllVersions() {
		f.Add(goldenControl(f, version))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := pg.ParseControl(b)
		if err == nil && (!c.WALSegmentSize.Valid() || c.BlockSize == 0 || c.RelSegSize == 0 || c.SystemID == 0) {
			t.Errorf("%+v", c)
		}
		// A fuzzer hardly ever finds the CRC: give it one.
		for _, end := range []int{288, 292} {
			if len(b) >= end+4 {
				binary.LittleEndian.PutUint32(b[end:], crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)))
				if c, err := pg.ParseControl(b); err == nil && (!c.WALSegmentSize.Valid() || c.BlockSize == 0 || c.RelSegSize == 0) {
					t.Errorf("%+v", c)
				}
			}
		}
	})
}
