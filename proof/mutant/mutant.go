// Package mutant holds the planted bugs by which the checkers are checked. Each is a mistake that
// somebody could make, or has made in another broker; in a build with the tag mutants the environment
// variable FLOTILLA_MUTANT chooses one by its name. Without the tag all are constants that are false.
//
// To plant one more: a name in off.go and in on.go, a line where the mistake would be made, and a row
// in the table of mutants_test.go that says who must find it. `make mutants` runs them all.
package mutant

// Variable is the environment variable that holds the name of the mutant.
const Variable = "FLOTILLA_MUTANT"
