package pg

import "encoding/binary"

// PageHeaderSize is the size of a data page's header in bytes (SizeOfPageHeaderData).
const PageHeaderSize = 24

// Offsets in PageHeaderData, bufpage.h.
const (
	offPageChecksum = 8
	offPageUpper    = 14
)

// PageLSN is the position after the last WAL record that changed the page (pd_lsn). page holds at least a page header.
func PageLSN(page []byte) LSN {
	return LSN(binary.LittleEndian.Uint32(page))<<32 | LSN(binary.LittleEndian.Uint32(page[4:]))
}

// PageStoredChecksum is the checksum in the header of the page (pd_checksum). page holds at least a page header.
func PageStoredChecksum(page []byte) uint16 {
	return binary.LittleEndian.Uint16(page[offPageChecksum:])
}

// PageIsNew reports whether the page was allocated but never initialised (PageIsNew: pd_upper is 0). Such a page has no
// checksum; pg_checksums passes over it. page holds at least a page header.
func PageIsNew(page []byte) bool { return binary.LittleEndian.Uint16(page[offPageUpper:]) == 0 }

// PageIsZero reports whether every byte is 0, as in a page by which a file was only extended.
func PageIsZero(page []byte) bool {
	for len(page) >= 32 {
		if binary.LittleEndian.Uint64(page)|binary.LittleEndian.Uint64(page[8:])|
			binary.LittleEndian.Uint64(page[16:])|binary.LittleEndian.Uint64(page[24:]) != 0 {
			return false
		}
		page = page[32:]
	}
	for _, b := range page {
		if b != 0 {
			return false
		}
	}
	return true
}

const (
	fnvPrime  = 16777619
	laneCount = 32
	rowSize   = laneCount * 4
)

// PageChecksum is the checksum that the page must have as the block blockNo of its relation, counted from the relation's first
// file (pg_checksum_page in checksum_impl.h): FNV-1a with an additional shift, in 32 lanes. The checksum field counts as zero;
// page is only read. len(page) is a block size of PostgreSQL: a multiple of 128. The result is never 0.
func PageChecksum(page []byte, blockNo uint32) uint16 {
	// The checksum field is the lower half of lane 2's first word: its value in the start value cancels it.
	stored := uint32(PageStoredChecksum(page))
	sum := foldLanes(page, 0, 0x5B1F36E9, 0xB8525960, 0x02AB50AA^stored, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C)
	sum ^= foldLanes(page, 32, 0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB)
	sum ^= foldLanes(page, 64, 0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4)
	sum ^= foldLanes(page, 96, 0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756)
	return uint16((sum^blockNo)%65535) + 1
}

// foldLanes runs the eight lanes whose words stand at off in every row, from their start values, and folds them into one. Eight at a
// time are as many as the registers hold.
func foldLanes(page []byte, off int, a, b, c, d, e, f, g, h uint32) uint32 {
	for ; off+32 <= len(page); off += rowSize {
		r := page[off : off+32 : off+32]
		a ^= binary.LittleEndian.Uint32(r[0:])
		a = a*fnvPrime ^ a>>17
		b ^= binary.LittleEndian.Uint32(r[4:])
		b = b*fnvPrime ^ b>>17
		c ^= binary.LittleEndian.Uint32(r[8:])
		c = c*fnvPrime ^ c>>17
		d ^= binary.LittleEndian.Uint32(r[12:])
		d = d*fnvPrime ^ d>>17
		e ^= binary.LittleEndian.Uint32(r[16:])
		e = e*fnvPrime ^ e>>17
		f ^= binary.LittleEndian.Uint32(r[20:])
		f = f*fnvPrime ^ f>>17
		g ^= binary.LittleEndian.Uint32(r[24:])
		g = g*fnvPrime ^ g>>17
		h ^= binary.LittleEndian.Uint32(r[28:])
		h = h*fnvPrime ^ h>>17
	}
	for range 2 { // two rounds of zeroes, so that the last words mix too
		a, b, c, d = a*fnvPrime^a>>17, b*fnvPrime^b>>17, c*fnvPrime^c>>17, d*fnvPrime^d>>17
		e, f, g, h = e*fnvPrime^e>>17, f*fnvPrime^f>>17, g*fnvPrime^g>>17, h*fnvPrime^h>>17
	}
	return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h
}
