module trim

go 1.21
