package walsource_test

import (
	"path/filepath"
	"testing"

	"github.com/pgtrove/pgtrove/walsource"
)

// BenchmarkValidate reads full segments of 16 MiB: of pgbench's small records, and of rows copied in bulk.
func BenchmarkValidate(b *testing.B) {
	s := startArchiving(b, "15", 16, map[string]string{"synchronous_commit": "off", "full_page_writes": "off"})
	s.Pgbench(b, "-i", "-q", "-s", "5")
	bulk := s.flush(b)
	s.Pgbench(b, "-c", "4", "-t", "20000", "-n", "-N")
	small := s.flush(b)
	names := map[string]string{}
	for _, info := range s.segments(b) {
		name := info.Segment.Name(info.SegmentSize)
		if !info.Switched && name < bulk {
			names["bulk"] = name
		} else if !info.Switched && name > bulk && name < small {
			names["small"] = name
		}
	}
	for _, kind := range []string{"bulk", "small"} {
		b.Run(kind, func(b *testing.B) {
			data, err := walsource.ReadSegment(filepath.Join(s.archive, names[kind]), s.expect)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			var info *walsource.Info
			for b.Loop() {
				if info, err = walsource.Validate(names[kind], data, s.expect); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(info.Records), "records")
		})
	}
	b.Run("from file", func(b *testing.B) {
		b.SetBytes(16 << 20)
		for b.Loop() {
			s.read(b, names["small"])
		}
	})
}
