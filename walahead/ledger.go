package walahead

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/internal/pg"
)

// LedgerFile is the file in the data directory that names segments which were given up and are not yet noted in the archive. It is never
// backed up: it is about this server's archiving, not about the data.
const LedgerFile = "pgtrove.gaps"

// ErrLedger says that the ledger is there and cannot be understood. It must not be replaced: what it held would be forgotten.
var ErrLedger = errors.New("damaged record of gaps")

// Gap is a row of segments that were given up, one after another.
type Gap struct {
	Repo        string         `json:"repo"` // as the settings name it: its ID may not be known
	Cluster     string         `json:"cluster"`
	System      pg.SystemID    `json:"system_id"`
	SegmentSize pg.SegmentSize `json:"segment_size"`
	Timeline    pg.Timeline    `json:"timeline"`
	First       uint64         `json:"first"` // numbers of segments
	Last        uint64         `json:"last"`
	Files       []string       `json:"files,omitempty"` // of other kinds, given up after First
	From        time.Time      `json:"from"`
	To          time.Time      `json:"to"`
	Limit       int64          `json:"limit"` // bytes
	Waiting     int64          `json:"waiting"`
	Error       string         `json:"error"`
}

// Ledger is the content of the file.
type Ledger struct {
	Gaps []Gap `json:"gaps"`
	// Tried is when the storage was last found not to answer.
	Tried time.Time `json:"tried"`
	// Begun are files of other kinds that were given up before any segment.
	Begun []string `json:"begun,omitempty"`

	path string
}

type ledgerFile struct {
	Version int             `json:"version"`
	Ledger  json.RawMessage `json:"ledger"`
	Sum     string          `json:"sha256"`
}

// ReadLedger reads the ledger of a data directory; an empty one where there is none. Errors: ErrLedger, and those of reading.
func ReadLedger(pgdata string) (*Ledger, error) {
	l := &Ledger{path: filepath.Join(pgdata, LedgerFile)}
	text, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record of gaps: %w", err)
	}
	var f ledgerFile
	if json.Unmarshal(text, &f) != nil || f.Version != 1 || f.Sum != ledgerSum(f.Ledger) || json.Unmarshal(f.Ledger, l) != nil {
		return nil, fmt.Errorf("%w: %s", ErrLedger, l.path)
	}
	return l, nil
}

func ledgerSum(content []byte) string {
	sum := sha256.Sum256(bytes.TrimSpace(content))
	return hex.EncodeToString(sum[:])
}

// Empty says that there is nothing to bring into the archive.
func (l *Ledger) Empty() bool { return len(l.Gaps) == 0 && len(l.Begun) == 0 }

// Drop adds a segment that is given up, as g, whose Last and To are not looked at: to the last gap, where it follows that, or as one of its own.
func (l *Ledger) Drop(g Gap) {
	g.Last, g.To = g.First, g.From
	g.Files, l.Begun = l.Begun, nil
	if k := len(l.Gaps); k > 0 {
		last := &l.Gaps[k-1]
		same := last.Repo == g.Repo && last.Cluster == g.Cluster && last.System == g.System && last.SegmentSize == g.SegmentSize && last.Timeline == g.Timeline
		if same && (last.Last+1 == g.First || last.Last == g.First) {
			last.Last, last.To, last.Error, last.Limit = g.First, g.From, g.Error, g.Limit
			last.Waiting = max(last.Waiting, g.Waiting)
			last.Files = append(last.Files, g.Files...)
			return
		}
	}
	l.Gaps = append(l.Gaps, g)
}

// DropFile adds a file of another kind, which belongs to whatever gap it falls into.
func (l *Ledger) DropFile(name string) {
	at := &l.Begun
	if k := len(l.Gaps); k > 0 {
		at = &l.Gaps[k-1].Files
	}
	if !slices.Contains(*at, name) {
		*at = append(*at, name)
	}
}

// Save makes the ledger durable, or removes the file of an empty one. When it returns nil, no crash takes back what it says.
func (l *Ledger) Save() error {
	if l.Empty() {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove record of gaps: %w", err)
		}
		return nil
	}
	content, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("write record of gaps: %w", err)
	}
	text, err := json.Marshal(ledgerFile{Version: 1, Ledger: content, Sum: ledgerSum(content)})
	if err != nil {
		return fmt.Errorf("write record of gaps: %w", err)
	}
	if err := durable.Replace(l.path, 0o600, append(text, '\n')); err != nil {
		return fmt.Errorf("write record of gaps: %w", err)
	}
	return nil
}

// Waiting says how many WAL files the server has marked as waiting to be archived, stopping at most.
func Waiting(walDir string, most int) (int, error) {
	d, err := os.Open(filepath.Join(walDir, "archive_status"))
	if err != nil {
		return 0, fmt.Errorf("look what waits to be archived: %w", err)
	}
	defer d.Close()
	n := 0
	for n < most {
		names, err := d.Readdirnames(1000)
		for _, name := range names {
			if filepath.Ext(name) == readySuffix {
				n++
			}
		}
		if len(names) == 0 {
			break
		}
		if err != nil {
			return n, fmt.Errorf("look what waits to be archived: %w", err)
		}
	}
	return n, nil
}

const readySuffix = ".ready"

// Ready says whether the server has marked the file as waiting to be archived. It looks at one name, however many wait.
func Ready(walDir, name string) bool {
	_, err := os.Lstat(filepath.Join(walDir, "archive_status", name+readySuffix))
	return err == nil
}
