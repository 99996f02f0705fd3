package walarchive

import (
	"context"
	"errors"
)

// Part is a piece of a segment that its server has not finished yet, as it was received.
type Part struct {
	Segment  string // its name
	Receiver string // who received it: the ID of one run over this one segment, which began at the segment's first byte
	From, To int64  // offsets in the segment, in bytes
	Content  []byte // To-From bytes
	Facts    Facts  // of the segment from its first byte to To
}

// PushPart stores a part. On nil it is durable.
func (a Archive) PushPart(ctx context.Context, p Part) error {
	return errors.New("parts: not yet")
}
