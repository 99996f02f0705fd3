package walarchive

import (
	"cmp"
	"slices"
)

// cover is a row of parts of one receiver, from the segment's first byte on, without a gap between them; they may overlap.
type cover []partName

// reach is how many bytes of the segment are there.
func (c cover) reach() int64 {
	if len(c) == 0 {
		return 0
	}
	return c[len(c)-1].To
}

// coverOf returns the cover that reaches farthest, of the fewest parts, from those of one receiver.
func coverOf(parts []partName) (c cover) {
	parts = slices.Clone(parts)
	slices.SortFunc(parts, func(a, b partName) int { return cmp.Compare(a.From, b.From) })
	for len(parts) > 0 {
		var next partName // which begins in what is there, and reaches farthest
		for len(parts) > 0 && parts[0].From <= c.reach() {
			if parts[0].To >= next.To {
				next = parts[0]
			}
			parts = parts[1:]
		}
		if next.To <= c.reach() {
			break
		}
		c = append(c, next)
	}
	return c
}

// coversOf returns for each receiver of a segment its cover, if it has one, the one that reaches farthest first.
func coversOf(parts []partName) (all []cover) {
	by := map[string][]partName{}
	for _, p := range parts {
		by[p.Receiver] = append(by[p.Receiver], p)
	}
	for _, own := range by {
		if c := coverOf(own); len(c) > 0 {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b cover) int {
		return cmp.Or(cmp.Compare(b.reach(), a.reach()), cmp.Compare(len(a), len(b)), cmp.Compare(b[0].Receiver, a[0].Receiver))
	})
	return all
}
