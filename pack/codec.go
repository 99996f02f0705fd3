package pack

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Level is how hard a Compressor tries. The zero value is the default. The
// library's best level is not offered: it has corrupted data twice.
type Level int

const (
	Fastest Level = 0
	Default Level = 1
	Better  Level = 2
)

// ErrEncoding wraps the failure to decode a chunk: bytes that are no zstd
// frame, another length than the directory says, or an unknown encoding.
var ErrEncoding = errors.New("cannot decode chunk")

// decodeSlack is memory behind the plain bytes with which the decoder may
// copy in whole words.
const decodeSlack = 16

// encoderWindow is how far back, in bytes, the encoder looks; a compressor of
// larger chunks than 128 KiB keeps that much memory.
const encoderWindow = 4 << 20

// encoder is what a Compressor needs of zstd.Encoder.
type encoder interface {
	EncodeAll(src, dst []byte) []byte
}

// Compressor compresses chunks. Not safe for concurrent use: each worker has
// its own. Calls do not allocate once its buffers have grown.
type Compressor struct {
	level  zstd.EncoderLevel
	enc    encoder
	dec    *Decompressor
	check  []byte
	faults uint64
}

// NewCompressor makes a compressor. It fails for an unknown level.
func NewCompressor(l Level) (*Compressor, error) {
	levels := map[Level]zstd.EncoderLevel{
		Fastest: zstd.SpeedFastest, Default: zstd.SpeedDefault, Better: zstd.SpeedBetterCompression,
	}
	level, ok := levels[l]
	if !ok {
		return nil, fmt.Errorf("make compressor: unknown level %d", l)
	}
	dec, err := NewDecompressor(1)
	if err != nil {
		return nil, err
	}
	c := &Compressor{level: level, dec: dec}
	if c.enc, err = newEncoder(level); err != nil {
		return nil, err
	}
	return c, nil
}

func newEncoder(level zstd.EncoderLevel) (*zstd.Encoder, error) {
	// The window comes before the level: in the other order the fastest level
	// cuts its blocks down to 64 KiB. With blocks of 128 KiB an ordinary run of
	// pages is one block, which needs no history buffer and is 5-15 % faster.
	enc, err := zstd.NewWriter(nil,
		zstd.WithWindowSize(encoderWindow),
		zstd.WithEncoderLevel(level),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), // the sealing authenticates
		zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make compressor: %w", err)
	}
	return enc, nil
}

// Compress appends the encoded form of plain to dst and says which it is. It
// is Raw, and exactly plain, where compression does not help. Otherwise it
// has been decompressed again and compared with plain before Compress
// returns: if they differ, or the encoder panics, the chunk is stored raw
// and Faults counts it. So the result always decodes to plain. It fails only
// for a chunk that is empty or larger than MaxPlain (ErrTooLarge).
//
// There is no probe of our own for incompressible chunks: the encoder gives
// up on random bytes at more than 10 GB/s by itself, and on what is in
// between, such as float8 columns, a probe could only lose space.
//
// dst must not overlap plain. With len(plain)+1024 bytes of room it does not
// move.
func (c *Compressor) Compress(dst, plain []byte) (out []byte, enc Encoding, err error) {
	if len(plain) == 0 || len(plain) > MaxPlain {
		return nil, Raw, fmt.Errorf("compress chunk: %w: %d bytes, want 1 to %d", ErrTooLarge, len(plain), MaxPlain)
	}
	start := len(dst)
	out, ok := c.encode(dst, plain)
	if !ok || len(out) < start {
		c.faults++
		return append(dst[:start], plain...), Raw, nil
	}
	if len(out)-start >= len(plain) {
		return append(out[:start], plain...), Raw, nil
	}
	c.check, err = c.dec.Decompress(c.check[:0], out[start:], Zstd, len(plain))
	if err != nil || !bytes.Equal(c.check, plain) {
		c.faults++
		return append(out[:start], plain...), Raw, nil
	}
	return out, Zstd, nil
}

// Faults is the number of chunks that the encoder spoiled, all of which were
// stored raw instead. It ought to be 0 for ever.
func (c *Compressor) Faults() uint64 { return c.faults }

// encode survives a panicking encoder: the library panics where it finds its
// own state wrong, and a backup should then rather be larger than not be. The
// encoder is not used again.
func (c *Compressor) encode(dst, plain []byte) (out []byte, ok bool) {
	defer func() {
		if recover() == nil {
			return
		}
		out, ok = nil, false
		if enc, err := newEncoder(c.level); err == nil {
			c.enc = enc
		}
	}()
	return c.enc.EncodeAll(plain, dst), true
}

// Decompressor decodes chunks. Safe for concurrent use.
type Decompressor struct {
	dec *zstd.Decoder
}

// NewDecompressor makes a decompressor of which at most parallel calls run at
// once; others wait.
func NewDecompressor(parallel int) (*Decompressor, error) {
	dec, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(max(parallel, 1)),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxPlain),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make decompressor: %w", err)
	}
	return &Decompressor{dec: dec}, nil
}

// Decompress appends the plain bytes of a chunk to dst: exactly plainLen, or
// it fails with ErrEncoding. Whatever src claims, no more than plainLen bytes
// are written or allocated. With plainLen+16 bytes of room dst does not move;
// the bytes behind its end may be overwritten up to there.
func (d *Decompressor) Decompress(dst, src []byte, enc Encoding, plainLen int) ([]byte, error) {
	if plainLen <= 0 || plainLen > MaxPlain {
		return nil, fmt.Errorf("%w: %d plain bytes, want 1 to %d", ErrEncoding, plainLen, MaxPlain)
	}
	start := len(dst)
	switch enc {
	case Raw:
		if len(src) != plainLen {
			return nil, fmt.Errorf("%w: %d raw bytes, want %d", ErrEncoding, len(src), plainLen)
		}
		return append(dst, src...), nil
	case Zstd:
	default:
		return nil, fmt.Errorf("%w: unknown encoding %d", ErrEncoding, byte(enc))
	}
	if need := start + plainLen + decodeSlack; need > cap(dst) {
		dst = append(make([]byte, 0, need), dst...)
	}
	out, err := d.dec.DecodeAll(src, dst[:start:start+plainLen+decodeSlack])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEncoding, err)
	}
	if len(out) != start+plainLen {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrEncoding, len(out)-start, plainLen)
	}
	if full := dst[:len(out)]; &full[start] == &out[start] {
		return full, nil // with the capacity that the decoder was not shown
	}
	return out, nil
}
