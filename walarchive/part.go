package walarchive

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Part is a piece of a segment that its server has not finished yet, as it was received. All parts of one receiver are cut from one row of
// bytes. They may overlap: a later one that begins where an earlier one did takes its place. docs/format.md, section "Parts of segments".
type Part struct {
	Segment  string // its name
	Receiver string // who received it: the ID of one run over this one segment, which began at the segment's first byte
	From, To int64  // offsets in the segment, in bytes
	Content  []byte // To-From bytes
	Facts    Facts  // of the segment from its first byte to To
}

// PushPart stores a part. On nil it is durable. The same part again is no error. ErrConflict: the receiver stored other bytes under the same name.
// ErrInvalid: name, content and facts do not go together.
func (a Archive) PushPart(ctx context.Context, p Part) error {
	pn := partName{Segment: p.Segment, From: p.From, To: p.To, Receiver: p.Receiver}
	n, err := ParseName(pn.file())
	if err != nil {
		return err
	}
	if int64(len(p.Content)) != p.To-p.From {
		return fmt.Errorf("%w: %s has %d bytes", ErrInvalid, n.File, len(p.Content))
	}
	p.Facts.trim()
	h := Header{Kind: PartKind, Cluster: a.Cluster, System: a.System, Timeline: n.Timeline, Name: n.File, Facts: p.Facts}
	_, err = a.put(ctx, n, &h, p.Content)
	return err
}

// partName is the name of a part, taken apart.
type partName struct {
	Segment  string
	From, To int64 // bytes
	Receiver string
}

const (
	partSuffix = ".part/"
	// receiverTime is the first half of a receiver's ID; the other is 64 random bits.
	receiverTime = "20060102T150405Z"
)

func (p partName) file() string {
	return fmt.Sprintf("%s%s%08x-%08x-%s", p.Segment, partSuffix, p.From, p.To, p.Receiver)
}

// parsePartName is the inverse of file. What offsets and receivers may be is docs/format.md's to say. ErrInvalid: no part is called so.
func parsePartName(file string) (p partName, err error) {
	bad := fmt.Errorf("%w: %q is no name of a part", ErrInvalid, file)
	segment, rest, ok := strings.Cut(file, partSuffix)
	if kind, err := pg.ClassifyWALFile(segment); !ok || err != nil || kind != pg.KindSegment {
		return p, bad
	}
	fields := strings.SplitN(rest, "-", 3)
	if len(fields) != 3 {
		return p, bad
	}
	from, ok1 := parseHex(fields[0], 4)
	to, ok2 := parseHex(fields[1], 4)
	at, id, _ := strings.Cut(fields[2], "-")
	_, ok3 := parseHex(id, 8)
	day, err := time.Parse(receiverTime, at)
	if !ok1 || !ok2 || !ok3 || err != nil || day.Format(receiverTime) != at || from >= to || to > uint64(pg.MaxSegmentSize) {
		return p, bad
	}
	return partName{Segment: segment, From: int64(from), To: int64(to), Receiver: fields[2]}, nil
}

// parseHex reads the lower-case digits of so many bytes, at most 8.
func parseHex(s string, bytes int) (v uint64, ok bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != bytes || hex.EncodeToString(b) != s {
		return 0, false
	}
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v, true
}

const (
	receiversFile    = "receive"
	receiversVersion = 1
	// receiversNew is for how long after it was stored the note of receivers counts as new. Readers may go on for a minute as if it were not there; the rest is for clocks
	// that differ.
	receiversNew = 10 * time.Minute
)

// receiversNote says that parts may exist below the same prefix. It is the whole content of the note of receivers.
type receiversNote struct {
	Version int       `json:"version"` // 1
	Since   time.Time `json:"since"`   // by the clock of the host that stored it first
	Nonce   string    `json:"nonce"`   // tells whose it is where the answer to a put was lost
}

// AnnounceReceiver makes sure that those who fetch WAL look for parts. It is called before the first part is pushed. fresh says that the note
// of that was not there before, or not for long: then readers may not know of it for another minute.
func (a Archive) AnnounceReceiver(ctx context.Context) (fresh bool, err error) {
	return a.announceReceiver(ctx, time.Now())
}

func (a Archive) announceReceiver(ctx context.Context, now time.Time) (fresh bool, err error) {
	if since, err := a.receivers(ctx); err == nil {
		return !since.Before(now.Add(-receiversNew)), nil
	} else if !unreadable(err) {
		return false, fmt.Errorf("announce a receiver: %w", err)
	}
	nonce := make([]byte, 8)
	_, _ = rand.Read(nonce) // never fails
	text, err := json.Marshal(receiversNote{Version: receiversVersion, Since: now.UTC().Truncate(time.Second), Nonce: hex.EncodeToString(nonce)})
	if err != nil {
		return false, fmt.Errorf("announce a receiver: %w", err)
	}
	n := Name{Kind: Receivers, File: receiversFile}
	h := Header{Kind: n.Kind, Cluster: a.Cluster, System: a.System, Name: n.File, Inline: text}
	if _, err = a.put(ctx, n, &h, text); err != nil && !errors.Is(err, ErrConflict) { // another receiver was first
		return false, err
	}
	return true, nil
}

// Received says whether a receiver was ever announced: whether there can be parts. It costs one request.
func (a Archive) Received(ctx context.Context) (bool, error) {
	_, err := a.receivers(ctx)
	switch {
	case errors.Is(err, ErrNotExist):
		return false, nil
	case unreadable(err):
		return true, nil // what stands there was once the note
	}
	return err == nil, err
}

// receivers returns since when parts may exist.
func (a Archive) receivers(ctx context.Context) (since time.Time, err error) {
	h, err := a.Header(ctx, receiversFile)
	if err != nil {
		return since, err
	}
	var note receiversNote
	if err := json.Unmarshal(h.Inline, &note); err != nil || note.Version < receiversVersion {
		return since, fmt.Errorf("%w: %s is no note of receivers", ErrDamaged, a.Key(Name{Kind: Receivers, File: receiversFile}))
	}
	return note.Since, nil
}
