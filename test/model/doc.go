// Package model drives the real code of package repo (writers, prunes, readers, and people who forget and pin) through random
// schedules, and looks after each change whether every promise is kept.
//
// Nothing of the protocol is modelled: what runs is repo itself, on storage/mem. The model is everything around it:
//
//   - The actors run in one bubble of testing/synctest. Each of their storage calls, and each page of a listing, waits for the scheduler
//     (call.go, process.go). When everybody waits, it chooses one and says what becomes of it (world.go, turn.go): it happens; it fails;
//     it happens and the answer is lost, or comes later; it is held up for long; its process dies; the machine goes down and
//     forgets what it had not answered yet. Time is that of the bubble, and sometimes jumps.
//   - The oracle reads the raw objects, by itself (objects.go), and knows what people were told (oracle.go). At the end, prunes run
//     alone, and only what lives may be left (quiesce.go).
//   - All that is left to chance are choices on tapes, one for each actor and one for the scheduler (tape.go), which a seed fills. 0 is always
//     the tame choice, so a failing schedule is shrunk by trying tamer choices and shorter tapes (shrink.go).
//
// go test ./test/model runs some schedules; make model a million of them, and the mutants: bugs put into the real source, each of
// which the model must find (mutants_test.go). -model.seed=N replays one schedule, with its trace.
package model
