package gate

// Accounts returns how many clients the gate remembers.
func (g *Gate) Accounts() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.clients)
}

// HasTurn returns the turn that somebody has.
func (g *Gate) HasTurn() *Turn {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.holder
}
