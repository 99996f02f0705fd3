package walsource

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// File is a file that was handed to archive_command, read and found valid.
type File struct {
	Name    string // without directory
	Kind    pg.FileKind
	Data    []byte         // the whole content
	Info    *Info          // of a segment or partial segment
	History pg.History     // of a timeline history file
	Backup  *BackupHistory // of a backup history file
}

// ReadFile reads the file at path and checks that it is what its name says. For a segment that begins in the midst of a record, the
// segment before is looked for in the same directory, so that the record counts.
//
// Errors: pg.ErrSyntax when PostgreSQL archives no file of this name; fs.ErrNotExist; those of this package. With ErrBroken
// the File is there and complete (see RecordError); with any other error it is nil.
func ReadFile(path string, expect Expect) (*File, error) { return new(Reader).ReadFile(path, expect) }

// Reader reads one file after the other into the same memory. It is for one goroutine.
type Reader struct{ buf []byte }

// ReadFile is the package's ReadFile, but for this: the Data of a segment is valid until the next call.
func (r *Reader) ReadFile(path string, expect Expect) (*File, error) {
	name := filepath.Base(path)
	kind, err := pg.ClassifyWALFile(name)
	if err != nil {
		return nil, err
	}
	f := &File{Name: name, Kind: kind}
	switch kind {
	case pg.KindHistory:
		if f.Data, err = readText(path); err == nil {
			f.History, err = ValidateHistory(name, f.Data)
		}
	case pg.KindBackup:
		if f.Data, err = readText(path); err == nil {
			f.Backup, err = ValidateBackup(name, f.Data, expect)
		}
	default:
		return r.readSegmentFile(f, path, expect)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// readSegmentFile completes f. What looks broken may have been written to while it was read: then a second look differs.
func (r *Reader) readSegmentFile(f *File, path string, expect Expect) (*File, error) {
	data, err := readSegment(r.buf, path, expect)
	if err != nil {
		return nil, err
	}
	f.Data, r.buf = data, data
	f.Info, err = validate(f.Name, data, expect, func(i *Info) tail { return tailBeside(path, i) })
	if err == nil {
		return f, nil
	}
	var broken *RecordError
	if !errors.As(err, &broken) || !errors.Is(err, ErrBroken) {
		return nil, err
	}
	again, rerr := ReadSegment(path, expect)
	if rerr != nil {
		return nil, rerr
	}
	if !bytes.Equal(data, again) {
		return nil, &RecordError{Name: f.Name, LSN: broken.LSN, Reason: "the file changed while it was read", Err: ErrUnfinished}
	}
	return f, err
}

// ReadSegment reads a segment's file whole: the size that expect says, or any size that a segment can have. It does not look at the
// content. Errors: fs.ErrNotExist, ErrEmpty, ErrTruncated, ErrForeign for another size of segments, ErrNotWAL.
func ReadSegment(path string, expect Expect) ([]byte, error) { return readSegment(nil, path, expect) }

// readSegment reads into buf, if that is large enough.
func readSegment(buf []byte, path string, expect Expect) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read segment: %w", err)
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read segment: %w", err)
	}
	name, size := filepath.Base(path), stat.Size()
	if !stat.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: no regular file", name, ErrNotWAL)
	}
	if err := checkSize(size, expect.SegmentSize); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	data := buf[:cap(buf)]
	if int64(len(data)) < size {
		data = make([]byte, size)
	}
	data = data[:size]
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read segment %s: %w", path, err)
	}
	return data, nil
}

func checkSize(size int64, expect pg.SegmentSize) error {
	valid := size <= int64(pg.MaxSegmentSize) && pg.SegmentSize(size).Valid()
	switch {
	case size == 0:
		return fmt.Errorf("%w: 0 bytes", ErrEmpty)
	case expect != 0 && size < int64(expect):
		return fmt.Errorf("%w: %d of %d bytes", ErrTruncated, size, uint32(expect))
	case expect != 0 && size > int64(expect) && valid:
		return fmt.Errorf("%w: %d bytes, segments of this cluster have %d", ErrForeign, size, uint32(expect))
	case expect != 0 && size > int64(expect):
		return fmt.Errorf("%w: %d bytes, segments of this cluster have %d", ErrNotWAL, size, uint32(expect))
	case !valid && size < int64(pg.MinSegmentSize):
		return fmt.Errorf("%w: %d bytes, a segment has at least %d", ErrTruncated, size, uint32(pg.MinSegmentSize))
	case !valid:
		return fmt.Errorf("%w: %d bytes is no size of segments", ErrTruncated, size)
	}
	return nil
}

// tailBeside looks for the segment before in the directory of path. A record that runs over a segment's end is on one timeline, that of the page
// on which it goes on.
func tailBeside(path string, info *Info) tail {
	if info.Segment.Number == 0 {
		return tail{}
	}
	before := pg.Segment{Timeline: info.FirstTimeline, Number: info.Segment.Number - 1}
	f, err := os.Open(filepath.Join(filepath.Dir(path), before.Name(info.SegmentSize)))
	if err != nil {
		return tail{}
	}
	defer f.Close()
	return readTail(f, info)
}

// maxText bounds history files: a line per timeline or fact.
const maxText = 1 << 20

func readText(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read WAL file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err != nil {
		return nil, fmt.Errorf("read WAL file %s: %w", path, err)
	}
	if len(data) > maxText {
		return nil, fmt.Errorf("%s: %w: larger than %d bytes", filepath.Base(path), ErrNotWAL, maxText)
	}
	return data, nil
}
