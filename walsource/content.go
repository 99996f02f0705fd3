package walsource

import (
	"bytes"
	"encoding/binary"
	"time"
)

// Resource managers (rmgrlist.h) and the upper half of xl_info that tells their records apart.
const (
	rmXLOG = 0
	rmXact = 1

	xlogInfoMask           = 0xF0 // ~XLR_INFO_MASK; pg_control.h
	xlogCheckpointShutdown = 0x00
	xlogCheckpointOnline   = 0x10
	xlogSwitch             = 0x40
	xlogRestorePoint       = 0x70
	xlogFPWChange          = 0x80

	xactOpMask         = 0x70 // XLOG_XACT_OPMASK, xact.h
	xactCommit         = 0x00
	xactAbort          = 0x20
	xactCommitPrepared = 0x30
	xactAbortPrepared  = 0x40
	xactHasInfo        = 0x80 // XLOG_XACT_HAS_INFO
)

// Parts that follow a commit's or abort's time in this order, by the bits of xl_xact_xinfo.
const (
	xinfoDBInfo       = 1 << 0
	xinfoSubxacts     = 1 << 1
	xinfoRelfiles     = 1 << 2
	xinfoInvals       = 1 << 3
	xinfoTwophase     = 1 << 4
	xinfoDroppedStats = 1 << 8 // since 15; stands between relation files and invalidations
)

// ofInterest reports whether take has a use for the record: few, so that the others are only checked.
func ofInterest(header []byte) bool {
	info := header[offRecordInfo]
	switch header[offRecordRmid] {
	case rmXact:
		op := info & xactOpMask
		return op == xactCommit || op == xactAbort || op == xactCommitPrepared || op == xactAbortPrepared
	case rmXLOG:
		switch info & xlogInfoMask {
		case xlogCheckpointShutdown, xlogCheckpointOnline, xlogSwitch, xlogRestorePoint, xlogFPWChange:
			return true
		}
	}
	return false
}

// take takes over what a checked record of interest says, which ends at EndOfData. body is what follows its header.
func (i *Info) take(header, body []byte) {
	data, ok := mainData(body)
	if ok && header[offRecordRmid] == rmXact {
		ok = i.takeEnd(header, data)
	} else if ok {
		ok = i.takeXLOG(header, data)
	}
	if !ok {
		i.Unknown++
	}
}

func (i *Info) takeXLOG(header, data []byte) bool {
	switch header[offRecordInfo] & xlogInfoMask {
	case xlogSwitch:
		i.Switched = true
	case xlogFPWChange: // bool
		if len(data) < 1 {
			return false
		}
		i.FullPageWritesOff = i.FullPageWritesOff || data[0] == 0
	case xlogCheckpointShutdown, xlogCheckpointOnline: // CheckPoint
		const fullPageWrites = 16
		if len(data) <= fullPageWrites {
			return false
		}
		i.FullPageWritesOff = i.FullPageWritesOff || data[fullPageWrites] == 0
	case xlogRestorePoint: // xl_restore_point: time, name with a zero at its end
		if len(data) < 9 {
			return false
		}
		name, _, _ := bytes.Cut(data[8:], []byte{0})
		i.RestorePoints = append(i.RestorePoints, RestorePoint{Name: string(name), LSN: i.EndOfData, Time: timestamp(data)})
	}
	return true
}

// takeEnd takes xl_xact_commit or xl_xact_abort.
func (i *Info) takeEnd(header, data []byte) bool {
	if len(data) < 8 {
		return false
	}
	at := timestamp(data)
	xid := binary.LittleEndian.Uint32(header[offRecordXID:])
	info := header[offRecordInfo]
	op := info & xactOpMask
	if op == xactCommitPrepared || op == xactAbortPrepared {
		// The record itself is of the session that ended the transaction, which has no xid of its own.
		var ok bool
		if xid, ok = twophaseXID(data[8:], info, i.Major); !ok {
			return false
		}
	}
	first := i.Commits+i.Aborts == 0
	if first || at.Before(i.FirstCommit) {
		i.FirstCommit = at
	}
	if first || at.After(i.LastCommit) {
		i.LastCommit = at
	}
	if op == xactCommit || op == xactCommitPrepared {
		i.Commits++
	} else {
		i.Aborts++
	}
	if xid == 0 {
		return true
	}
	if i.MinXID == 0 || int32(xid-i.MinXID) < 0 {
		i.MinXID = xid
	}
	if i.MaxXID == 0 || int32(xid-i.MaxXID) > 0 {
		i.MaxXID = xid
	}
	return true
}

// twophaseXID finds the xid of a prepared transaction in what follows the time (ParseCommitRecord and ParseAbortRecord, xactdesc.c).
func twophaseXID(b []byte, info byte, major int) (uint32, bool) {
	if info&xactHasInfo == 0 || len(b) < 4 {
		return 0, false
	}
	xinfo := binary.LittleEndian.Uint32(b)
	b = b[4:]
	const dbInfoSize, xidSize, relfileSize, invalSize = 8, 4, 12, 16
	statSize := 12
	if major >= 18 {
		statSize = 16 // object IDs have 64 bits
	}
	if xinfo&xinfoDBInfo != 0 {
		if len(b) < dbInfoSize {
			return 0, false
		}
		b = b[dbInfoSize:]
	}
	for _, list := range [...]struct {
		bit  uint32
		size int
	}{{xinfoSubxacts, xidSize}, {xinfoRelfiles, relfileSize}, {xinfoDroppedStats, statSize}, {xinfoInvals, invalSize}} {
		if xinfo&list.bit == 0 {
			continue
		}
		if len(b) < 4 {
			return 0, false
		}
		skip := 4 + uint64(binary.LittleEndian.Uint32(b))*uint64(list.size)
		if skip > uint64(len(b)) {
			return 0, false
		}
		b = b[skip:]
	}
	if xinfo&xinfoTwophase == 0 || len(b) < xidSize {
		return 0, false
	}
	return binary.LittleEndian.Uint32(b), true
}

// mainData is a record's own data, behind the headers of its parts. The records of interest refer to no blocks.
func mainData(body []byte) ([]byte, bool) {
	const short, long, origin, toplevelXID = 255, 254, 253, 252 // XLR_BLOCK_ID_*
	for len(body) > 0 {
		id, rest := body[0], body[1:]
		var size, n uint64 // of the header behind the ID; of the data
		switch id {
		case short:
			size = 1
		case long:
			size = 4
		case origin:
			size = 2
		case toplevelXID: // since 14
			size = 4
		default:
			return nil, false
		}
		if uint64(len(rest)) < size {
			return nil, false
		}
		switch id {
		case short:
			n = uint64(rest[0])
		case long:
			n = uint64(binary.LittleEndian.Uint32(rest))
		}
		rest = rest[size:]
		if id == short || id == long {
			return rest, uint64(len(rest)) == n
		}
		body = rest
	}
	return nil, true
}

// timestamp reads a TimestampTz: microseconds since 2000.
func timestamp(b []byte) time.Time {
	const epoch = 946684800 * 1000000 // 2000-01-01 in microseconds since 1970
	return time.UnixMicro(int64(binary.LittleEndian.Uint64(b)) + epoch).UTC()
}
